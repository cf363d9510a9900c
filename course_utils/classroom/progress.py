"""The reader's progress: one small file in the cache folder, never in the repository."""

import json
import os
from datetime import date
from pathlib import Path
from typing import Any

from filelock import FileLock

from course_utils.classroom.exercises import all_exercises
from course_utils.classroom.lessons import LESSONS, lesson_title
from course_utils.classroom.style import Table, table
from course_utils.data.cache import cache_dir


def progress_file() -> Path:
    """Where progress is kept: COURSE_PROGRESS, or progress.json in the cache folder."""
    return Path(os.environ.get("COURSE_PROGRESS") or cache_dir() / "progress.json")


def _read(path: Path) -> dict[str, Any]:
    """What is stored; an unreadable file is empty: progress must never stop a lesson."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def record(id: str, passed: bool) -> None:
    """Note one attempt at an exercise. What has passed once stays passed.

    A folder that can not be written to loses the note, not the lesson.
    """
    path = progress_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # two notebooks may be open
            stored = _read(path)
            entry = stored.setdefault(id, {"attempts": 0, "passed": None})
            entry["attempts"] += 1
            if passed and not entry["passed"]:
                entry["passed"] = date.today().isoformat()
            whole = path.with_suffix(".new")
            whole.write_text(json.dumps(stored, indent=1), encoding="utf-8")
            os.replace(whole, path)
    except OSError as error:
        print(f"Progress is not kept: {error.strerror}.")


def progress(lesson: str | None = None) -> Table:
    """The board: every exercise, how it stands, attempts, difficulty (of 5) and minutes.

    lesson: its number as text, "01"; all lessons when not given. Raises ValueError if there is
    none.
    """
    if lesson is not None:
        lesson_title(lesson)  # refuses a lesson that does not exist
    stored = _read(progress_file())
    columns: dict[str, list] = {
        "lesson": [],
        "exercise": [],
        "state": [],
        "attempts": [],
        "difficulty": [],
        "minutes": [],
    }
    exercises = [one for one in all_exercises() if lesson in (None, one.lesson)]
    for one in exercises:
        entry = stored.get(one.id, {})
        state = "✓ passed" if entry.get("passed") else "✗ tried" if entry else "○ to do"
        row = (
            f"{one.lesson} {LESSONS[one.lesson]}",
            one.id,
            "· open" if one.kind == "open" else state,
            entry.get("attempts", 0),
            "●" * one.difficulty,
            one.minutes,
        )
        for column, value in zip(columns.values(), row):
            column.append(value)
    graded = [one for one in exercises if one.kind != "open"]
    done = sum(bool(stored.get(one.id, {}).get("passed")) for one in graded)
    left = sum(one.minutes for one in graded if not stored.get(one.id, {}).get("passed"))
    return table(
        columns, caption=f"{done} of {len(graded)} exercises passed; about {left} minutes to go"
    )
