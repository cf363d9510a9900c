"""Fill the cache with every model that the lessons train at their first run.

    python -m course_utils.prepare       # before a class, before a journey, before the tests

Two minutes a model, on two cores; what is there already is found and left alone.
"""

from collections.abc import Callable

from course_utils import distillation_runs, pruning_runs, tasks, tinybert_runs

MODELS: dict[str, Callable[[], object]] = {
    **{
        f"lessons 06 and 08, {name}": lambda name=name: tasks.fine_tuned(name, progress=False)
        for name in ("intents", "docs_pairs", "docs_pairs_apart", "slots", "questions", "joint")
    },
    **{
        f"lesson 09, {how}": lambda how=how: distillation_runs.student_folder(how, progress=False)
        for how in ("+ hidden states", "labels, dropout 0.1")
    },
    "lesson 10, a student after general distillation": lambda: tinybert_runs.Workshop(
        progress=False
    ).general(tinybert_runs.TinyBertRecipe()),
    "lesson 12, half of the heads and neurons": lambda: pruning_runs.pruned_folder(progress=False),
}


def main() -> None:
    """`python -m course_utils.prepare`"""
    for name, make in MODELS.items():
        make()
        print(f"in the cache: {name}", flush=True)


if __name__ == "__main__":
    main()
