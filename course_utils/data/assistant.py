"""The assistant's data set, written for this course: what customers type to a bank-and-travel app.

`data/assistant/` holds one readable file for each split and domain. A heading opens an intent, and
slots are marked where they stand:

    # transfer_make
    move [200 dollars](amount) from [savings](account) to [checking](account)

`python -m course_utils.data.assistant check [FILE ...]` says what is wrong with them, line by line.
"""

import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml
from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features, List, Value

from course_utils.data.stored import DATA

OUT_OF_SCOPE = "out_of_scope"
SPLITS = ("train", "validation", "test")
NEAR_TWIN = 0.8  # Jaccard similarity of two texts' sets of words, from which they count as twins
_SLOT = re.compile(r"\[([^\[\]]*)\]\(([^()\[\]]*)\)")


class AnnotationError(ValueError):
    """A line of a data file that can not be read; the message says file, line and column."""


class Span(NamedTuple):
    """A marked stretch of a text: text[start:end] is a `type`. Characters, end not included."""

    start: int
    end: int
    type: str


@dataclass(frozen=True)
class Utterance:
    """One line: its plain text, intent, slots in order, and where it stands."""

    text: str
    intent: str
    slots: tuple[Span, ...]
    path: Path
    line: int

    @property
    def where(self) -> str:
        """Its place in the words of an error message."""
        return f"{self.path.parent.name}/{self.path.name}, line {self.line}"

    @property
    def skeleton(self) -> str:
        """The text in lower case, without punctuation, each slot replaced by its type."""
        parts, position = [], 0
        for slot in self.slots:
            parts += [self.text[position : slot.start], f" <{slot.type}> "]
            position = slot.end
        parts.append(self.text[position:])
        return " ".join(re.findall(r"<\w+>|\w+", "".join(parts).lower()))

    @property
    def words(self) -> frozenset[str]:
        """The set of its words, lower case."""
        return frozenset(re.findall(r"\w+", self.text.lower()))


class Schema(NamedTuple):
    """What may occur: domains with their intents and meanings, and slot types with meanings."""

    domains: dict[str, dict[str, str]]
    slots: dict[str, str]

    @property
    def intents(self) -> list[str]:
        """The intents in scope, domain after domain, then out_of_scope."""
        return [name for intents in self.domains.values() for name in intents] + [OUT_OF_SCOPE]

    def domain(self, intent: str) -> str:
        """The domain an intent belongs to; out_of_scope is its own."""
        found = [name for name, intents in self.domains.items() if intent in intents]
        return found[0] if found else OUT_OF_SCOPE


@cache
def schema(folder: Path = DATA / "assistant") -> Schema:
    """The intents and slot types of `schema.yaml`. Raises ValueError where the file is missing."""
    path = folder / "schema.yaml"
    if not path.is_file():
        raise ValueError(f"{path} is missing: fetch the repository's data/assistant/.")
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Schema(found["domains"], found["slots"])


def parse_slots(line: str, types: Iterable[str] | None = None) -> tuple[str, tuple[Span, ...]]:
    """An annotated line → (plain text, spans): `pay [40 euros](amount)` → text, ((4, 12, amount)).

    types  the types that may occur; None allows any word

    Raises AnnotationError with the column (from 1) for a bracket without its partner, a span
    without a type or of an unknown one, an empty span, and a space at a span's edge.
    """
    allowed = None if types is None else set(types)
    text, spans, position = "", [], 0
    for found in _SLOT.finditer(line):
        _no_brackets(line, position, found.start())
        text += line[position : found.start()]
        words, kind = found.groups()
        if not words.strip():
            raise AnnotationError(f"column {found.start() + 1}: the span is empty.")
        if words != words.strip():
            raise AnnotationError(f"column {found.start() + 2}: a space at the edge of [{words}].")
        if allowed is not None and kind not in allowed:
            raise AnnotationError(
                f"column {found.start(2) + 1}: {kind!r} is no slot type; "
                f"take one of {', '.join(sorted(allowed))}."
            )
        spans.append(Span(len(text), len(text) + len(words), kind))
        text += words
        position = found.end()
    _no_brackets(line, position, len(line))
    return text + line[position:], tuple(spans)


def _no_brackets(line: str, start: int, end: int) -> None:
    for column in range(start, end):
        if line[column] in "[]":
            raise AnnotationError(
                f"column {column + 1}: {line[column]!r} does not belong to a [span](type)."
            )


def read_utterances(path: Path, known: Schema) -> Iterator[Utterance]:
    """The utterances of one file. Raises AnnotationError with file, line and column."""
    intent, seen = None, {}
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = raw.strip()
        where = f"{path.parent.name}/{path.name}, line {number}"
        if not line:
            continue
        if line.startswith("#"):
            intent = line.lstrip("#").strip()
            if intent not in known.intents:
                raise AnnotationError(f"{where}: {intent!r} is no intent of schema.yaml.")
            continue
        if intent is None:
            raise AnnotationError(f"{where}: an utterance before the first # intent.")
        try:
            text, slots = parse_slots(line, known.slots)
        except AnnotationError as error:
            raise AnnotationError(f"{where}, {error}") from None
        if text.lower() in seen:
            raise AnnotationError(f"{where}: the same text as line {seen[text.lower()]}.")
        seen[text.lower()] = number
        yield Utterance(text, intent, slots, path, number)


def read_split(split: str, folder: Path = DATA / "assistant") -> list[Utterance]:
    """All utterances of "train", "validation" or "test", file by file in order of their names."""
    if split not in SPLITS:
        raise ValueError(f"{split!r} is no split; take one of {', '.join(SPLITS)}.")
    known = schema(folder)
    return [
        u for path in sorted((folder / split).glob("*.txt")) for u in read_utterances(path, known)
    ]


def load_assistant(folder: Path = DATA / "assistant") -> DatasetDict:
    """The assistant's data: `DatasetDict(train, validation, test)`.

    text    str
    intent  ClassLabel of 31 names: 30 intents, and out_of_scope, the last
    slots   list of {start, end, type}: text[start:end], characters, in order, none overlapping

    1,600 / 350 / 1,150 utterances; see data/assistant/DATASHEET.md. CC BY 4.0. Raises
    AnnotationError with file, line and column for a damaged file.
    """
    known = schema(folder)
    features = Features(
        {
            "text": Value("string"),
            "intent": ClassLabel(names=known.intents),
            "slots": List(
                {"start": Value("int32"), "end": Value("int32"), "type": Value("string")}
            ),
        }
    )
    about = DatasetInfo(
        description="Customers of a made-up bank-and-travel company, written for this course.",
        license="CC BY 4.0",
        features=features,
    )
    splits = {}
    for split in SPLITS:
        rows = [
            {"text": u.text, "intent": u.intent, "slots": [slot._asdict() for slot in u.slots]}
            for u in read_split(split, folder)
        ]
        splits[split] = Dataset.from_list(rows, features=features, info=about, split=split)
    return DatasetDict(splits)


def intent_domains() -> dict[str, str]:
    """intent → domain, in the order of the labels."""
    known = schema()
    return {intent: known.domain(intent) for intent in known.intents}


def similarity(a: frozenset[str], b: frozenset[str]) -> float:
    """Jaccard similarity of two sets of words: shared / all, 0 for two empty sets."""
    return len(a & b) / len(a | b) if a or b else 0.0


def near_twins(
    utterances: list[Utterance], others: list[Utterance]
) -> Iterator[tuple[Utterance, Utterance]]:
    """Pairs (utterance, other) whose words have a similarity of NEAR_TWIN or more."""
    by_word: dict[str, list[int]] = {}
    sets = [other.words for other in others]
    for index, words in enumerate(sets):
        for word in words:
            by_word.setdefault(word, []).append(index)
    for utterance in utterances:
        mine = utterance.words
        # a twin shares 0.8 · n of my n words or more, so one of any 0.2 · n + 1: take the rarest
        rare = sorted(mine, key=lambda word: len(by_word.get(word, ())))
        enough = rare[: len(mine) - math.ceil(round(NEAR_TWIN * len(mine), 9)) + 1]
        for index in sorted({i for word in enough for i in by_word.get(word, ())}):
            if similarity(mine, sets[index]) >= NEAR_TWIN:
                yield utterance, others[index]


# --- The check, for those who write utterances ----------------------------------------------------


def check(paths: list[Path], folder: Path = DATA / "assistant") -> list[str]:
    """What is wrong with these files (all, without any), a sentence each; prints their figures."""
    wanted = {path.resolve() for path in paths} or {p.resolve() for p in folder.glob("*/*.txt")}
    problems, everything = [], {split: [] for split in SPLITS}
    for path in sorted(folder.glob("*/*.txt")):
        try:
            everything[path.parent.name] += read_utterances(path, schema(folder))
        except AnnotationError as error:
            problems += [str(error)] if path.resolve() in wanted else []
    for split, utterances in everything.items():
        chosen = [u for u in utterances if u.path.resolve() in wanted]
        for intent in dict.fromkeys(u.intent for u in chosen):
            problems += _check_intent([u for u in chosen if u.intent == intent])
        problems += _leaks(chosen, [u for s in SPLITS if s != split for u in everything[s]])
        for a, b in near_twins(chosen, utterances):
            if (a.path, a.line) < (b.path, b.line):
                problems.append(f"{a.where}: near twin of {b.where}: {a.text!r} | {b.text!r}")
    types = Counter(slot.type for us in everything.values() for u in us for slot in u.slots)
    print("slots in all files:", ", ".join(f"{kind} {n}" for kind, n in types.most_common()))
    return problems


def _check_intent(found: list[Utterance]) -> Iterator[str]:
    """Problems of one intent's utterances in one split; prints a line of figures."""
    skeletons = Counter(u.skeleton for u in found)
    lengths = sorted(len(u.text.split()) for u in found)
    print(
        f"{found[0].path.parent.name:10s} {found[0].intent:20s} {len(found):3d} utterances, "
        f"{len(skeletons):3d} skeletons, {sum(len(u.slots) for u in found) / len(found):.2f} "
        f"slots each, {lengths[0]}–{lengths[-1]} words, median {lengths[len(lengths) // 2]}"
    )
    for u in found:
        if skeletons[u.skeleton] > 1:
            yield f"{u.where}: the skeleton {u.skeleton!r} occurs {skeletons[u.skeleton]} times"
        if not 2 <= len(u.text.split()) <= 40:
            yield f"{u.where}: {len(u.text.split())} words; 2 to 40 are wanted"


def _leaks(chosen: list[Utterance], others: list[Utterance]) -> Iterator[str]:
    """Sentences about utterances that have a twin, or their skeleton, in another split."""
    skeletons = {other.skeleton: other for other in others}
    for u in chosen:
        if u.skeleton in skeletons:
            yield f"{u.where}: same skeleton as {skeletons[u.skeleton].where}: {u.text!r}"
    for a, b in near_twins(chosen, others):
        yield f"{a.where}: near twin of {b.where}: {a.text!r} | {b.text!r}"


def main(arguments: list[str]) -> int:
    """`check [FILE ...]`: print figures and problems; exit status 1 when there are problems."""
    if arguments[:1] != ["check"]:
        print("usage: python -m course_utils.data.assistant check [FILE ...]")
        return 2
    problems = check([Path(name) for name in arguments[1:]])
    print("\n".join(problems) if problems else "nothing is wrong")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
