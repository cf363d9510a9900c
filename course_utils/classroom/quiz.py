"""The quiz at the end of a lesson: jupyterquiz with no network, readable without JavaScript."""

import json
import re
from importlib.resources import files

from course_utils.classroom.shown import Shown, inline, lesson_file, plain, proof_link

# jupyterquiz's classes, in the page's own colours; right and wrong also differ by a sign.
_STYLE = """
.course-quiz { max-width: 46em; }
.course-quiz .Quiz { margin: 0 0 1.6em; }
.course-quiz .Answer { display: grid; gap: 6px; margin: 8px 0; }
.course-quiz .Answer input { display: none; }
.course-quiz .MCButton { padding: 6px 10px; cursor: pointer; border-radius: 4px;
  border: 1px solid var(--jp-border-color1, #999); }
.course-quiz .MCButton:hover, .course-quiz .MCButton:focus {
  outline: 2px solid var(--jp-brand-color1, #0072B2); }
.course-quiz .correctButton { border: 2px solid #009E73; }
.course-quiz .incorrectButton { border: 2px solid #D55E00; }
.course-quiz .correctButton::before, .course-quiz .Feedback.correct::before { content: "✓ "; }
.course-quiz .incorrectButton::before, .course-quiz .Feedback.incorrect::before { content: "✗ "; }
.course-quiz .Feedback { min-height: 1.4em; }
.course-quiz .Feedback.correct { border-left: 3px solid #009E73; padding-left: 8px; }
.course-quiz .Feedback.incorrect { border-left: 3px solid #D55E00; padding-left: 8px; }
"""

# Runs where the output is: no ids, so two views of one notebook do not meet. The function's
# argument is named MathJax and left out: jupyterquiz then finds none and asks no network for one.
_START = """
(function (MathJax) {
%s
const quiz = document.currentScript.closest('.course-quiz');
const live = document.createElement('div');
Object.assign(live.dataset, {shuffleanswers: 'True', maxwidth: '740'});
show_questions(%s, live);
quiz.querySelector('.course-quiz-still').replaceWith(live);
for (const option of live.querySelectorAll('.MCButton')) {
  option.tabIndex = 0;
  option.setAttribute('role', 'button');
  option.addEventListener('keydown', event => {
    if (event.key !== 'Enter' && event.key !== ' ') return;
    event.preventDefault(); event.stopPropagation(); option.click();
  });
}
for (const feedback of live.querySelectorAll('.Feedback')) {
  feedback.setAttribute('aria-live', 'polite');
}
})();
"""


def quiz(lesson: str) -> Shown:
    """Show a lesson's questions, data/quizzes/NN.json; each option is explained at a click.

    lesson: "01". Where no JavaScript runs (GitHub, paper, a notebook not yet trusted) the questions
    stand with their answers folded below them.

    Raises ValueError for a lesson that does not exist or has no quiz (the nearest is named).
    """
    path = lesson_file("quizzes", lesson, "json")
    questions = json.loads(path.read_text(encoding="utf-8"))
    still = "".join(_still(n, q, lesson) for n, q in enumerate(questions, 1))
    live = [_live(n, q, lesson) for n, q in enumerate(questions, 1)]
    script = _START % (_jupyterquiz(), json.dumps(live, ensure_ascii=False).replace("</", "<\\/"))
    html = (
        f'<div class="course-quiz"><div class="course-quiz-still">{still}</div>'
        f"<style>{_STYLE}</style><script>{script}</script></div>"
    )
    return Shown(html, "\n\n".join(_text(n, q) for n, q in enumerate(questions, 1)))


def _still(number: int, question: dict, lesson: str) -> str:
    """One question as plain HTML, its answers folded."""
    options = "".join(f"<li>{inline(a['answer'])}</li>" for a in question["answers"])
    answers = "".join(
        f"<li>{'✓' if a['correct'] else '✗'} {inline(a['answer'])}: {inline(a['feedback'])}</li>"
        for a in question["answers"]
    )
    return (
        '<div style="margin-bottom:1.2em">'
        f"<p><strong>{number}.</strong> {inline(question['question'])}</p><ul>{options}</ul>"
        f"<details><summary>Answer</summary><ul>{answers}</ul>"
        f"<p>See: {proof_link(question['proof'], lesson)}</p></details></div>"
    )


def _live(number: int, question: dict, lesson: str) -> dict:
    """One question as jupyterquiz takes it, its texts as HTML."""
    here = question["proof"].startswith(f"{lesson}#")  # another file's would reload the page
    see = f" See: {proof_link(question['proof'], lesson)}." if here else ""
    answers = [
        {
            "answer": inline(a["answer"]),
            "correct": bool(a["correct"]),
            "feedback": inline(a["feedback"]) + see,
        }
        for a in question["answers"]
    ]
    return {
        "question": f"<strong>{number}.</strong> {inline(question['question'])}",
        "type": question["type"],
        "answers": answers,
        "answer_cols": 1,
    }


def _text(number: int, question: dict) -> str:
    options = [f"   {x}) {plain(a['answer'])}" for x, a in zip("abcdefgh", question["answers"])]
    return "\n".join([f"{number}. {plain(question['question'])}", *options])


def _jupyterquiz() -> str:
    """The installed jupyterquiz's JavaScript for questions with options, without addresses."""
    scripts = files("jupyterquiz").joinpath("js")
    names = ["helpers.js", "multiple_choice.js", "show_questions.js"]
    code = "\n".join(scripts.joinpath(name).read_text(encoding="utf-8") for name in names)
    code = re.sub(r"https?://[^'\"\s]*", "", code)  # MathJax's CDN: never reached, and not named
    code = re.sub(r"^\s*(//.*)?\n", "", code, flags=re.MULTILINE)  # comments and empty lines
    return re.sub(r"^\s*console\.log\(.*\);\s*\n", "", code, flags=re.MULTILINE)
