"""The first call of every lesson."""

import logging
import os
import random
import warnings

import numpy as np
import torch

from course_utils.classroom import style
from course_utils.classroom.lessons import lesson_title
from course_utils.classroom.scale import scale_name


def start(lesson: str, seed: int = 0) -> None:
    """Set the plot style, seed the random generators, quiet the libraries; print one line.

    lesson: its number as text, "01". seed: for Python's, NumPy's and PyTorch's generators; a cell
    that must not depend on the cells before it seeds again.

    Raises ValueError for a lesson that does not exist.
    """
    title = lesson_title(lesson)
    style.use_style()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_printoptions(precision=3, sci_mode=False, linewidth=100)
    # Libraries announce progress and deprecations of their own internals: none of the reader's
    # business.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own trace of itself
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    print(f"Lesson {lesson} · {title} · scale: {scale_name()}")
