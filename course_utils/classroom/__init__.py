"""What a lesson needs around its ideas: exercises, hints, quizzes, claims, plots, progress, device.

Lessons and tests import from here; reference modules never do.
"""

from course_utils.classroom.claims import all_claims, claim_check
from course_utils.classroom.device import device
from course_utils.classroom.doctor import doctor
from course_utils.classroom.drawings import draw_attention
from course_utils.classroom.exercises import all_exercises, exercise, hint, solution
from course_utils.classroom.glossary import glossary
from course_utils.classroom.interview import interview
from course_utils.classroom.marked import draw_marked, marked
from course_utils.classroom.mine import blocks_of, use_mine
from course_utils.classroom.progress import progress
from course_utils.classroom.quiz import quiz
from course_utils.classroom.scale import scale
from course_utils.classroom.sliders import explore
from course_utils.classroom.start import start
from course_utils.classroom.style import COLOR, figure, label_lines, show, table

__all__ = [
    "COLOR",
    "all_claims",
    "all_exercises",
    "blocks_of",
    "claim_check",
    "device",
    "doctor",
    "draw_attention",
    "draw_marked",
    "exercise",
    "explore",
    "figure",
    "glossary",
    "hint",
    "interview",
    "label_lines",
    "marked",
    "progress",
    "quiz",
    "scale",
    "show",
    "solution",
    "start",
    "table",
    "use_mine",
]
