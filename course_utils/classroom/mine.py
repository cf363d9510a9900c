"""The reader's own code: kept in `mine/` when it passes, and put to work by `use_mine()`.

`mine/` holds one readable module a topic. Each block begins with a heading that names its
exercise, the object it defines, the lesson and the date; the blocks of a module share one
namespace, top to bottom.
"""

import ast
import builtins
import importlib
import inspect
import linecache
import os
import re
import symtable
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

from course_utils.classroom.exercises import Exercise, _code_file, all_exercises
from course_utils.classroom.lessons import REPOSITORY, wrapped

_HEADING = re.compile(
    r"^# ---- (?P<id>\S+) · (?P<name>\w+) · lesson (?P<lesson>\d\d) · passed (?P<date>\S+) ----$"
)


def mine_folder() -> Path:
    """The reader's own folder: COURSE_MINE, or `mine/` in the repository (ignored by git)."""
    return Path(os.environ.get("COURSE_MINE") or REPOSITORY / "mine")


# --- Keeping a passing answer ---------------------------------------------------------------------


_kept: list[tuple[str, Any]] = []  # (topic, object): the reader's passing code of this kernel


class _CannotKeep(Exception):
    """The reader's code uses something that only the notebook has."""


def save(exercise: Exercise, candidate: Any) -> str:
    """Write a passing answer into its topic's module; return the sentence that says so."""
    try:
        above = {value.__name__ for topic, value in _kept if topic == exercise.topic}
        code = _source_with_needs(candidate, candidate.__name__, above)
    except _CannotKeep as reason:
        return f"Not kept in mine/: {reason}"
    path = mine_folder() / f"{exercise.topic}.py"
    blocks = {b.id: b for b in _read_blocks(path)} if path.exists() else {}
    heading = (
        f"# ---- {exercise.id} · {candidate.__name__} · lesson {exercise.lesson}"
        f" · passed {date.today().isoformat()} ----"
    )
    blocks[exercise.id] = _Block(exercise.id, candidate.__name__, f"{heading}\n{code}\n", path, 0)
    # In the lesson's order: a block may use the blocks above it.
    order = {one.id: i for i, one in enumerate(all_exercises())}
    whole = [f'"""Your own {exercise.topic}, block by block. Yours to read and to edit."""\n']
    whole += [
        b.text.rstrip() + "\n" for b in sorted(blocks.values(), key=lambda b: order.get(b.id, 999))
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text("\n\n".join(whole), encoding="utf-8")
        os.replace(new, path)
    except OSError as error:  # a full disk or a read-only folder must not stop a lesson
        return f"Not kept in mine/: {error.strerror}."
    _kept.append((exercise.topic, candidate))
    return f"Kept in mine/{exercise.topic}.py."


def _source_with_needs(value: Any, name: str, seen: set[str]) -> str:
    """The source of a function or class, with the imports, constants and helpers it needs above it.

    seen: names that need nothing more, because they stand above already.
    """
    seen.add(name)
    source = _source(value, name)
    # Only functions have __globals__; a class shows them through any function of its body.
    function = (
        value
        if hasattr(value, "__globals__")
        else next((f for f in vars(value).values() if hasattr(f, "__globals__")), None)
    )
    scope = function.__globals__ if function is not None else {}
    imports, helpers = set(), []
    for used in sorted(_global_names(source) - seen):
        if used not in scope:
            if hasattr(builtins, used):
                continue
            raise _CannotKeep(f"it uses {used!r}, which is not defined.")
        seen.add(used)
        _add_need(scope[used], used, imports, helpers, seen)
    return "\n".join([*sorted(imports), *([""] if imports else []), *helpers, source])


def _add_need(value: Any, name: str, imports: set[str], helpers: list[str], seen: set[str]) -> None:
    home = _home(value)
    if isinstance(value, ModuleType):
        plain = value.__name__ == name
        imports.add(f"import {name}" if plain else f"import {value.__name__} as {name}")
    elif home:
        module, public = home
        imports.add(f"from {module} import {public}" + (f" as {name}" if public != name else ""))
    elif isinstance(value, type) or callable(value) and hasattr(value, "__globals__"):
        helpers.append(_source_with_needs(value, name, seen) + "\n\n")
    elif _is_constant(value):
        helpers.append(f"{name} = {value!r}\n")
    else:
        raise _CannotKeep(
            f"it uses {name!r}, which only this notebook has; pass it in or write it inside."
        )


def _home(value: Any) -> tuple[str, str] | None:
    """Where a value can be imported from; a reference module may hold the reader's version."""
    for module_name, module in _reference_modules():
        for public, held in vars(module).items():
            own = getattr(value, "__module__", "")
            table = isinstance(value, dict)  # carries no __module__ that would name its home
            if held is value and (own == module_name or own.startswith("mine.") or table):
                return module_name, public
    module_name, public = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not module_name or not public or module_name == "__main__":
        return None
    found = sys.modules.get(module_name)
    return (module_name, public) if getattr(found, public, None) is value else None


def _is_constant(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_constant(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _source(value: Any, name: str) -> str:
    """The text of a function or class without its decorators, as its file or cell has it.

    `inspect.getsource` finds functions of a notebook but not its classes; the cell's text has both.
    """
    filename = _code_file(value)
    text = "".join(linecache.getlines(filename)) if filename else ""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, kinds) and n.name == name]
    if not nodes:
        raise _CannotKeep(
            f"the text of {name or 'it'} was not found; write it with def or class in a cell."
        )
    return ast.get_source_segment(text, nodes[-1]) + "\n"


def says_more_than(candidate: Any, stub: Any) -> bool:
    """Did the reader write anything into the stub?"""
    try:
        bodies = [ast.parse(_source(one, one.__name__)).body[0].body for one in (candidate, stub)]
    except (_CannotKeep, OSError, SyntaxError):
        return False
    written, empty = ([ast.dump(part) for part in body] for body in bodies)
    return written != empty


def _global_names(source: str) -> set[str]:
    """The names that a piece of code reads from outside itself."""

    def walk(scope) -> set[str]:
        names = {s.get_name() for s in scope.get_symbols() if s.is_global() and s.is_referenced()}
        if scope.get_type() == "module":  # base classes, defaults and annotations are read out here
            names |= {
                s.get_name()
                for s in scope.get_symbols()
                if s.is_referenced() and not s.is_assigned()
            }
        return names.union(*map(walk, scope.get_children()))

    return walk(symtable.symtable(source, "<answer>", "exec"))


# --- Using it -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Block:
    id: str
    name: str
    text: str
    path: Path
    line: int


def _read_blocks(path: Path) -> list[_Block]:
    """The blocks of one module of `mine/`."""
    blocks, lines = [], path.read_text(encoding="utf-8").splitlines()
    starts = [i for i, line in enumerate(lines) if _HEADING.match(line)]
    for start, end in zip(starts, [*starts[1:], len(lines)]):
        heading = _HEADING.match(lines[start])
        text = "\n".join(lines[start:end])
        blocks.append(_Block(heading["id"], heading["name"], text, path, start))
    return blocks


def _reference_modules() -> list[tuple[str, ModuleType]]:
    return [
        (name, module)
        for name, module in list(sys.modules.items())
        if name.startswith("course_utils.") and ".classroom" not in name and ".data" not in name
    ]


def _replace_everywhere(old: Any, new: Any) -> None:
    """Put `new` where the reference modules, the notebook, or the reader's other modules hold
    `old`. Not in its own module: an answer that calls the reference would then call itself."""
    namespaces = [vars(module) for _, module in _reference_modules()]
    namespaces += [one for one in _loaded if one["__name__"] != getattr(new, "__module__", "")]
    for namespace in [*namespaces, vars(sys.modules["__main__"])]:
        for name in [n for n, held in namespace.items() if held is old and not n.startswith("_")]:
            namespace[name] = new


_loaded: list[dict[str, Any]] = []  # the namespaces of mine/'s modules
_in_place: dict[str, Any] = {}  # exercise id -> the reader's object that stands for the reference


def use_mine(on: bool = True) -> None:
    """Put the reader's own passing blocks in the reference's place, for this kernel, and say which.

    Every block is checked again first: one that no longer passes is left out, with a line that
    says why. use_mine(False) goes back to the reference.
    """
    exercises = {one.id: one for one in all_exercises()}
    for id, current in list(_in_place.items()):
        _replace_everywhere(current, exercises[id].reference)
        del _in_place[id]
    _loaded.clear()
    if not on:
        print("Every block is the reference again.")
        return
    left_out = []
    for path in sorted(mine_folder().glob("*.py")):
        left_out += _install_module(path, exercises)
    total = sum(one.installable for one in exercises.values())
    if _in_place:
        print(f"{len(_in_place)} of {total} blocks are yours: {', '.join(_in_place)}.")
    else:
        print("None of yours yet: every block is the reference.")
        print("What you solve in the exercises is kept in mine/, and this call puts it to work.")
    for line in left_out:
        print(f"Left out: {line}")


def blocks_of(call: Callable[[], Any], name: str = "this BERT") -> None:
    """Run call() and print how many of the exercises' blocks ran in it, and which are the reader's.

    A block counts when its own code was executed: what was put in place and is never called does
    not count.
    """
    seen: set = set()
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, arg: seen.add(frame.f_code))
    try:
        call()
    finally:
        sys.setprofile(before)
    ran, yours = [], []
    for one in all_exercises():
        if one.installable and one.id in _in_place and seen & _codes(_in_place[one.id]):
            yours.append(one.id)
        elif one.installable and seen & _codes(one.reference):
            ran.append(one.id)
    line = f"{len(yours)} of {len(ran) + len(yours)} blocks of {name} are yours"
    print(wrapped(f"{line}: {', '.join(yours)}." if yours else f"{line}."))


def _codes(implementation: Any) -> set:
    """The code objects of a function, or of a class's own methods."""
    functions = [implementation]
    if isinstance(implementation, type):  # building is not running: without __init__
        functions = [f for name, f in vars(implementation).items() if name != "__init__"]
    return {inspect.unwrap(f).__code__ for f in functions if hasattr(f, "__code__")}


def _install_module(path: Path, exercises: dict) -> list[str]:
    """Run one module of `mine/` block by block, install what passes, say what does not."""
    left_out = []
    text = path.read_text(encoding="utf-8")
    filename = f"mine/{path.name}"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    namespace: dict[str, Any] = {"__name__": f"mine.{path.stem}"}
    _loaded.append(namespace)
    for block in _read_blocks(path):
        one = exercises.get(block.id)
        if one is None or one.kind == "open":
            left_out.append(f"{block.id}: there is no such exercise (any more).")
            continue
        try:
            # As many empty lines above as in the file, so that error messages give its line
            # numbers.
            exec(compile("\n" * block.line + block.text, filename, "exec"), namespace)
            candidate = namespace[block.name]
        except Exception as error:
            left_out.append(f"{block.id}: it does not run ({type(error).__name__}: {error}).")
            continue
        result = one.check(candidate)
        if result.status != "passed":
            left_out.append(f"{block.id}: {result.message}")
        elif one.installable:
            importlib.import_module(one.reference.__module__)
            _replace_everywhere(one.reference, candidate)
            _in_place[block.id] = candidate
    return left_out
