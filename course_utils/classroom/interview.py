"""The interview corner of a lesson: questions, folded answers, and the cells that prove them."""

import yaml

from course_utils.classroom.shown import Shown, inline, lesson_file, plain, proof_link

LEVELS = ("junior", "mid", "senior")


def interview(lesson: str, language: str = "en") -> Shown:
    """Show a lesson's interview questions, data/interview/NN.yaml, with their answers folded.

    lesson: "01". language: a language that the questions are written in; English for now.

    Raises ValueError for a lesson that does not exist or has no questions (the nearest is named),
    and for a language that a question lacks.
    """
    path = lesson_file("interview", lesson, "yaml")
    items = yaml.safe_load(path.read_text(encoding="utf-8"))
    for item in items:
        if language not in item["question"] or language not in item["answer"]:
            there = ", ".join(sorted(item["question"]))
            raise ValueError(f"{item['id']} has no text in {language!r}; it has {there}")
    html = "".join(_html(item, lesson, language) for item in items)
    text = "\n".join(f"({item['level']}) {plain(item['question'][language])}" for item in items)
    return Shown(f'<div class="course-interview" style="max-width:46em">{html}</div>', text)


def _html(item: dict, lesson: str, language: str) -> str:
    points = "".join(f"<li>{inline(point)}</li>" for point in item["points"])
    follow_ups = "".join(f"<li>{inline(question)}</li>" for question in item["follow_ups"])
    wrong = item["wrong"]
    return (
        '<div style="margin-bottom:1.2em">'
        f"<p><strong>{inline(item['question'][language])}</strong> <em>({item['level']})</em></p>"
        "<details><summary>Answer in 30 seconds</summary>"
        f"<p>{inline(item['answer'][language])}</p>"
        f"<p>A good answer names</p><ul>{points}</ul>"
        f"<p>The usual wrong answer: “{inline(wrong['answer'])}” {inline(wrong['why'])}</p>"
        f"<p>They may ask next</p><ul>{follow_ups}</ul>"
        f"<p>The proof: {proof_link(item['proof'], lesson)}</p></details></div>"
    )
