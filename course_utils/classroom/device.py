"""Where a lesson computes: one function, so that no cell ever names a device."""

import os

import torch


def device() -> torch.device:
    """The device of this kernel.

    The kernel `course-cpu` sets COURSE_DEVICE=cpu and `course-gpu` sets COURSE_DEVICE=cuda; any
    other kernel gets the best there is: CUDA, then Apple's Metal (mps), then the CPU.

    Raises RuntimeError if COURSE_DEVICE asks for CUDA and CUDA does not answer, ValueError if it
    names something else than cpu or cuda.
    """
    wanted = os.environ.get("COURSE_DEVICE", "")
    if wanted not in ("", "cpu", "cuda"):
        raise ValueError(f"COURSE_DEVICE is {wanted!r}: set it to cpu or cuda, or leave it unset.")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            "This kernel computes on CUDA, and CUDA does not answer here: choose the kernel "
            "'Course (CPU)' (menu Kernel, Change Kernel), or mend the driver (nvidia-smi)."
        )
    if wanted:
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
