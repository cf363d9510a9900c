"""Two tasks out of the docs corpus: a function and its summary, and questions on parameters.

The texts are docstrings of the packages on the reader's disk (`docs.docstrings`), without mark-up;
only the questions' wording is ours. Modules, not lines, are divided into training, validation and
test. What is drawn is decided by hashes of names: the same packages give the same data everywhere.
Beside each task stands what a programmer would try first, word overlap and regular expressions.
"""

import ast
import functools
import hashlib
import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features, Value

from course_utils.data import docs
from course_utils.data.cache import cached, sha256

SPLITS = ("train", "validation", "test")
PAIRS = {"train": 8000, "validation": 400, "test": 800}
QUESTIONS = {"train": 2300, "validation": 240, "test": 600}

MAX_FUNCTION, MAX_SUMMARY, MAX_CONTEXT = 18, 26, 50  # word pieces, as `count_pieces` counts them
NEAR_TWIN = 0.8  # Jaccard similarity of two texts' sets of words, from which they count as twins


def load_docs_pairs(progress: bool = True) -> DatasetDict:
    """Does the summary describe the function? `DatasetDict(train, validation, test)`.

    function  str, as in the source: "MaskedArray.recordmask(self)" without self and defaults
    summary   str, the first sentence of a docstring
    label     ClassLabel no, yes
    kind      "positive" (its own summary), "hard" (of another function of the module),
              "easy" (of a function of another module)
    module    str, where the function is; no module occurs in two splits

    8,000 / 400 / 800 pairs with the course's packages, half of them positive: every function comes
    once with its own summary and once with another's, every summary once as right and about once
    as wrong, so neither side alone tells the label. Own summaries that repeat more than 40 % of the
    name's words are left out, and wrong ones share about as many. Built at the first call (seconds,
    once the docs corpus is there), then read from the cache. Raises ValueError where too few
    packages are installed.
    """
    features = Features(
        {
            "function": Value("string"),
            "summary": Value("string"),
            "label": ClassLabel(names=["no", "yes"]),
            "kind": Value("string"),
            "module": Value("string"),
        }
    )
    return _load("pairs", features, progress)


def load_docs_questions(progress: bool = True) -> DatasetDict:
    """Questions on parameters, answered by a span: `DatasetDict(train, validation, test)`.

    id        str
    context   str, two or more parameters of one docstring, about 64 word pieces or fewer
    question  str
    answer    str, context[start : start + len(answer)]; "" when the context does not answer
    start     int32, in characters; -1 when the context does not answer
    kind      "default", "type", "meaning", "unanswerable"
    module    str, where the docstring is; no module occurs in two splits

    2,300 / 240 / 600 questions with the course's packages, a fifth of them unanswerable. Three in
    four of the test's (and validation's) wordings never occur in training. Cache and errors as in
    `load_docs_pairs`.
    """
    features = Features(
        {
            "id": Value("string"),
            "context": Value("string"),
            "question": Value("string"),
            "answer": Value("string"),
            "start": Value("int32"),
            "kind": Value("string"),
            "module": Value("string"),
        }
    )
    return _load("questions", features, progress)


def _load(task: str, features: Features, progress: bool) -> DatasetDict:
    fingerprint = docs.docs_corpus(progress).fingerprint
    made_by = [sha256(Path(__file__)), sha256(Path(docs.__file__))]

    def build(folder: Path) -> None:
        found = docs.docstrings(progress)
        for name, make in {"pairs": make_pairs, "questions": make_questions}.items():
            with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as out:
                out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in make(found))

    folder = cached("docs_tasks", {"made by": made_by, "packages": fingerprint}, build)
    with open(folder / f"{task}.jsonl", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    about = DatasetInfo(
        description=f"Docs {task}: made from the docstrings of "
        + ", ".join(f"{package} {version}" for package, version in fingerprint.items())
        + " as installed on this machine; the texts are those packages', under their licences.",
        features=features,
    )
    splits = {}
    for split in SPLITS:
        chosen = [{key: row[key] for key in features} for row in rows if row["split"] == split]
        if not chosen:
            raise ValueError(
                f"too few packages are installed to make docs {task}: there are "
                f"{', '.join(fingerprint)}; install the course's environment (python3 course.py)."
            )
        splits[split] = Dataset.from_list(chosen, features=features, info=about, split=split)
    return DatasetDict(splits)


@functools.cache
def module_split(module: str) -> str:
    """The split that a module belongs to, by a hash of its name: 70 %, 10 %, 20 %."""
    place = _number("split", module) % 10
    return "test" if place < 2 else "validation" if place == 2 else "train"


def count_pieces(text: str) -> int:
    """About how many word pieces of BERT a text has, without the vocabulary: mostly too many."""
    parts = re.findall(r"[A-Za-z]+|\d+|[^\w\s]|_", text)
    return sum(1 + (len(part) - 1) // (3 if part.isdigit() else 7) for part in parts)


def _number(*words: str) -> int:
    """A number that looks drawn at random but depends on the words alone."""
    digest = hashlib.blake2b("\0".join(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _choose(options: Sequence, *words: str):
    return options[_number(*words) % len(options)]


# --- Text -----------------------------------------------------------------------------------------

_ROLE = re.compile(r":[\w:+-]+:`[~!.]?([^`<]*?)(?:\s*<[^`]*>)?`")  # :class:`~torch.Tensor`
_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}")  # `text <address>`_
_DOTTED = re.compile(r"`+[~!.]([\w.]+)`+")  # `~.Axes`
_REFERENCE = re.compile(r"\s*\[[\w.-]+\]_")  # [1]_
_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)(?<!\bcf)[.!?](?:\s+|$)")


def plain(text: str) -> str:
    """A docstring's text on one line, without reStructuredText's mark-up."""
    text = _ROLE.sub(lambda match: match[1].rsplit(".", 1)[-1], text)
    text = _LINK.sub(r"\1", text)
    text = _DOTTED.sub(lambda match: match[1].rsplit(".", 1)[-1], text)
    text = _REFERENCE.sub("", text).replace("`", "").replace("**", "")
    text = re.sub(r"(?<![\w*])\*(\w[\w ]*)\*(?!\w)", r"\1", text)  # *emphasis*
    return re.sub(r"\s+", " ", text).strip()


def first_sentence(text: str) -> str:
    """The first sentence of a text on one line, its stop with it."""
    end = _SENTENCE_END.search(text)
    return text[: end.end()].strip() if end else text


def name_words(name: str) -> list[str]:
    """The words of an identifier, lower case: "getXHeight_v2" → get, x, height, v, 2."""
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def _stem(word: str) -> str:
    """A word without its usual ending, so that "returns" and "returned" are "return"."""
    for ending in ("ing", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


@functools.lru_cache(maxsize=100_000)
def _stems(text: str) -> frozenset[str]:
    return frozenset({_stem(word) for word in name_words(text)} - _FUNCTION_WORDS)


_FUNCTION_WORDS = {
    _stem(word)
    for word in "a an the of to in on for and or is are be as by with from at this that it its if "
    "self into not which when use used using given".split()
}


def _without_twins(rows: list, words: Callable, split: Callable) -> list:
    """The rows, less those of which a near twin in another split came before."""
    index: dict[str, list[int]] = defaultdict(list)
    kept, sets = [], []
    for row in rows:
        mine = frozenset(words(row))
        rare = sorted(mine, key=lambda word: (len(index[word]), word))
        enough = rare[: int((1 - NEAR_TWIN) * len(mine)) + 1]
        near = {i for word in enough for i in index[word] if split(kept[i]) != split(row)}
        if any(len(mine & sets[i]) >= NEAR_TWIN * len(mine | sets[i]) for i in near):
            continue
        for word in mine:
            index[word].append(len(kept))
        kept.append(row)
        sets.append(mine)
    return kept


# --- Pairs ----------------------------------------------------------------------------------------

MIN_SUMMARY_WORDS, MAX_SUMMARY_WORDS = 4, 20
PER_MODULE, HARD = 16, 40  # functions of a module; of 100 negatives those of the same module
MAX_OVERLAP = 0.4  # with a function's own summary
_NOT_A_SUMMARY = re.compile(
    r"(?i)(same as|see |alias|deprecated|equivalent|please|internal|helper|wrapper|thin wrapper|"
    r"wraps |parameters|returns -|todo|note|test|\W|this is |this \w+ is |.*:$|.*[<>=|])"
)


@dataclass(frozen=True)
class Function:
    """A function or class with its summary."""

    package: str
    module: str
    name: str
    text: str
    summary: str

    @property
    def last_name(self) -> str:
        return self.name.rsplit(".", 1)[-1].strip("_")

    @property
    def split(self) -> str:
        return module_split(self.module)


def make_pairs(docstrings: Iterable[docs.Docstring]) -> Iterator[dict]:
    """The pairs as rows of `load_docs_pairs`, and `split`."""
    by_split: dict[str, list[Function]] = {split: [] for split in SPLITS}
    for function in _functions(docstrings):
        by_split[function.split].append(function)
    drawn = [f for split in SPLITS for f in _draw(by_split[split], 5 * PAIRS[split] // 8)]
    drawn = _without_twins(drawn, lambda f: _stems(f.summary), lambda f: f.split)
    for split in SPLITS:
        chosen = [f for f in drawn if f.split == split][: PAIRS[split] // 2]
        rows = []
        wrong = _wrong_summaries(chosen)
        for i in sorted(wrong):
            function, (other, kind) = chosen[i], wrong[i]
            for source, label, what in ((function, 1, "positive"), (other, 0, kind)):
                rows.append(
                    {
                        "function": function.text,
                        "summary": source.summary,
                        "label": label,
                        "kind": what,
                        "module": function.module,
                        "split": split,
                    }
                )
        yield from sorted(rows, key=lambda row: _number("order", row["function"], row["summary"]))


def _functions(docstrings: Iterable[docs.Docstring]) -> Iterator[Function]:
    """Functions and classes with a usable summary; of equal summaries none is kept."""
    candidates = []
    for one in docstrings:
        name = one.name.rsplit(".", 1)[-1]
        if len(name.strip("_")) < 3 or name.startswith("__"):
            continue
        summary = first_sentence(plain(one.text.strip().split("\n\n")[0]))
        parameters = [p for p in _parameter_names(one.signature) if p not in ("self", "cls")]
        text = f"{one.name}({', '.join(parameters)})" if one.signature else one.name
        function = Function(one.package, one.module, one.name, text, summary)
        if _is_usable(function):
            candidates.append(function)
    summaries = Counter(_letters(f.summary) for f in candidates)
    names = Counter((f.module, f.name) for f in candidates)
    for function in candidates:
        if (
            summaries[_letters(function.summary)] == 1
            and names[function.module, function.name] == 1
        ):
            yield function


def _is_usable(function: Function) -> bool:
    summary, name = function.summary, function.last_name
    words = summary.split()
    return (
        MIN_SUMMARY_WORDS <= len(words) <= MAX_SUMMARY_WORDS
        and not _NOT_A_SUMMARY.match(summary)
        and summary.isascii()
        and sum(c.isalpha() or c == " " for c in summary) >= 0.85 * len(summary)
        and count_pieces(function.text) <= MAX_FUNCTION
        and count_pieces(summary) <= MAX_SUMMARY
        and not _gives_away(name, summary)
        and overlap(function.text, summary) <= MAX_OVERLAP
    )


def _gives_away(name: str, summary: str) -> bool:
    """True when the summary names the function, as an identifier or with all its words in order."""
    words = name_words(name)
    if len(words) == 1:
        return words[0] in name_words(summary)
    return " ".join(words) in " ".join(name_words(summary)) or "".join(words) in summary.lower()


def _letters(text: str) -> str:
    return re.sub(r"[^a-z]+", " ", text.lower()).strip()


def _parameter_names(signature: str) -> list[str]:
    return [argument.arg for argument in _arguments(signature)]


def _arguments(signature: str) -> list[ast.arg]:
    try:
        found = ast.parse(f"def f({signature}): 0").body[0].args
    except SyntaxError:
        return []
    return [
        *found.posonlyargs, *found.args, *([found.vararg] if found.vararg else []),
        *found.kwonlyargs, *([found.kwarg] if found.kwarg else []),
    ]  # fmt: skip


def _draw(functions: list[Function], count: int) -> list[Function]:
    """Up to `count` functions, PER_MODULE of a module; of a package at most a sixth of them."""
    modules: dict[str, list[Function]] = defaultdict(list)
    for function in functions:
        modules[function.module].append(function)
    chosen: list[Function] = []
    packages: Counter[str] = Counter()
    for module in sorted(modules, key=lambda name: _number("module", name)):
        group = sorted(modules[module], key=lambda f: _number("pair", f.module, f.name))
        group = group[:PER_MODULE]
        if len(group) >= 3 and packages[group[0].package] < count // 6:
            packages[group[0].package] += len(group)
            chosen += group
    return chosen[:count]


def _wrong_summaries(functions: list[Function]) -> dict[int, tuple[Function, str]]:
    """For each function, by its place, another whose summary it gets, each once: (function, kind).

    A wrong summary shares about as many of the name's words as the right one, within the module and
    elsewhere, so that counting words tells little. Hard ones first: there are fewer to choose from.
    """
    right = [overlap(f.text, f.summary) for f in functions]
    members: dict[str, list[int]] = defaultdict(list)
    by_word: dict[str, list[int]] = defaultdict(list)
    for j in sorted(range(len(functions)), key=lambda j: _number("wrong", functions[j].summary)):
        members[functions[j].module].append(j)
        for word in _stems(functions[j].summary):
            by_word[word].append(j)
    given: dict[int, tuple[int, str]] = {}
    free = dict.fromkeys(range(len(functions)))
    order = sorted(free, key=lambda i: (-right[i], _number("order", functions[i].text)))

    def find(i: int, candidates: Iterable[int]) -> int | None:
        """The free summary whose overlap comes closest to that of the right one."""
        name = functions[i].text
        near = ((abs(overlap(name, functions[j].summary) - right[i]), j) for j in candidates)
        near = (one for one in near if _may_be_wrong(functions[i], functions[one[1]]))
        return min(near, key=lambda one: one[0], default=(0.0, None))[1]

    for kind in ("hard", "easy"):
        for i in order:
            module = members[functions[i].module]
            if i in given or (kind == "hard" and _number("kind", functions[i].text) % 100 >= HARD):
                continue
            if kind == "hard":
                candidates = [j for j in module if j in free]
            else:
                words = sorted(_stems(functions[i].text.split("(")[0]))
                likely = (j for word in words for j in by_word[word])
                candidates = [j for j in (*likely, *itertools.islice(free, 50)) if j in free]
                candidates = [j for j in candidates if j not in module]
            found = find(i, candidates)
            if found is not None:
                given[i] = found, kind
                del free[found]
    return {i: (functions[j], kind) for i, (j, kind) in given.items()}


def _may_be_wrong(function: Function, other: Function) -> bool:
    """False where the other's summary could be right for this function too."""
    mine, others = _stems(function.summary), _stems(other.summary)
    return (
        function is not other
        and function.last_name.lower() != other.last_name.lower()
        and len(mine & others) < 0.6 * len(mine | others)
        and not _gives_away(function.last_name, other.summary)
    )


# The baseline of pairs.


def overlap(function: str, summary: str) -> float:
    """The part of the words in the function's name that the summary has: 0 to 1.

    Endings do not count ("returned" is "return"), nor do articles and prepositions.
    """
    words = _stems(function.split("(")[0])
    return len(words & _stems(summary)) / len(words) if words else 0.0


def overlap_threshold(pairs: Dataset) -> float:
    """The overlap from which a pair is best called right: the most of these pairs come out well."""
    if not len(pairs):
        raise ValueError("no pairs: give the training split of load_docs_pairs().")
    scored = [(overlap(row["function"], row["summary"]), row["label"]) for row in pairs]
    return max(
        sorted({score for score, _ in scored}),
        key=lambda threshold: sum((score >= threshold) == label for score, label in scored),
    )


# --- Questions: what a docstring says of each parameter -------------------------------------------

MAX_ENTRY, MAX_ANSWER_WORDS = 34, 20  # word pieces of one parameter's text, words of an answer
_HAS_PARAMETERS = re.compile(
    r"^(?:Other )?Parameters\s*\n---|^(?:Arg|Parameters:|Keyword)|^:param ", re.M
)
_NUMPY_SECTION = re.compile(
    r"^(?:Other )?Parameters\s*\n-{3,}\s*\n(.*?)(?=^\S[^\n]*\n[-=]{3,}|\Z)", re.M | re.S
)
_GOOGLE_SECTION = re.compile(
    r"^(?:Args|Arguments|Parameters|Keyword [Aa]rg(?:ument)?s):[ \t]*\n\s*?"
    r"((?:[ \t]+\S[^\n]*\n?|\s*\n)+)",
    re.M,
)
_SPHINX_SECTION = re.compile(r"^(:param (?:.*\n?)+)", re.M)
_NUMPY_HEAD = re.compile(r"\*{0,2}\w+(?:, ?\*{0,2}\w+)*(?:\s*:(?:\s.*)?)?$")
_GOOGLE_HEAD = re.compile(r"\*{0,2}(\w+)(?: ?\((.*?)\))?:(?:\s|$)")
_SPHINX_HEAD = re.compile(r":param (?:[\w.\[\], |]+ )?(\w+):\s")
_TYPE_ENDS = re.compile(
    r",?\s*\(?\b(?:optional|defaults?|required|keyword.only|deprecated|positional)\b|\s*\(=", re.I
)
_VALUE = (
    r"(?:'[^']*'|\"[^\"]*\"|[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+|None|True|False"
    r"|\([^()]*\)|\[[^\[\]]*\]|[A-Za-z_][\w.]*\w)"
)
_DEFAULTS = (
    re.compile(
        rf"(?i:\bdefaults?(?: values?)?(?: is| to| of| are)?(?: set to)?\s*[=:]?\s*)({_VALUE})"
    ),
    re.compile(rf"({_VALUE}) by default\b"),
    re.compile(rf"({_VALUE}) \((?:the )?default\)"),
)
_LEFT_OUT = re.compile(
    r"\b(?:If (?:None|not (?:given|specified|provided|supplied|set|passed)|omitted|unspecified|"
    r"(?:it|this) is None)(?: or None)?(?: \((?:the )?default\))?, (?:then )?|By default,? )"
    r"([^;:()]{8,110}?)(?=\.(?:\s|$)|$)",
    re.I,
)  # fmt: skip
_SPEAKS_OF_DEFAULT = re.compile(
    r"(?i)default|\bnone\b|omit|not (?:given|specified|provided|supplied|set|passed)|"
    r"unspecified|otherwise|absent|missing|\bno \w+ (?:is|are) given"
)
_SPEAKS_OF_TYPE = re.compile(
    r"(?i)tensor|list|tuple|string|\bstr\b|\bint|float|bool|dict|array|object|module|function|"
    r"callable|sequence|number|whether|\bif\b|true|false|instance|class|iter|\bset\b|type|path|"
    r"name|file|matri|vector|graph|scalar|constraint|variable|node|size|dim|device|mask"
)
_NOT_A_MEANING = re.compile(
    r"(?i)if (?:none|not)|default|see |(?:the )?same |deprecated|alias|not used|ignored|unused|"
    r"this (?:parameter|argument) |passed|optional|\W|must be|either |one of"
)
_NOUN = re.compile(
    r"(?:(The|A|An) )?((?:[A-Za-z]\w*[- ]){1,5}?[a-z]\w*)(?= (?:to|that|which|for|in|on|at|by|from|"
    r"with|when|if|where|as|is|are|will|should|must|along|into|against|between|using|used|after|"
    r"before|during|per|over|whose|and|or|can|may|has|have)\b|[,.;:(]|$)"
)
_NO_NOUNS = (
    "that",
    "which",
    "to",
    "is",
    "are",
    "be",
    "if",
    "when",
    "same",
    "first",
    "this",
    "above",
)
_NOUNS = (
    "Number Maximum Minimum Name Size Width Height Length Order Degree Path Location Tolerance "
    "Value Values Labels Label Index Indices Axis Axes Color Input Output Data Initial Step Upper "
    "Lower Weight Weights Seed Array List Target Training Test Sample Scale Shape Position Radius "
    "Threshold Relative Absolute Probability Random Learning"
).split()


@dataclass(frozen=True)
class Entry:
    """One parameter of a docstring, on one line; spans are (start, end) in `text`."""

    name: str  # "" for what no question is asked about: *args, or two names at once
    text: str
    type: tuple[int, int] | None = None
    default: tuple[int, int] | None = None  # a value
    left_out: tuple[int, int] | None = None  # what happens without it, in words
    meaning: tuple[int, int] | None = None
    noun: str = ""  # how the text names the thing: "the maximum number of iterations"
    silent_on: frozenset[str] = frozenset()  # kinds that the text surely does not answer


def parameter_entries(one: docs.Docstring) -> list[list[Entry]]:
    """The parameters of a docstring in NumPy's, Google's or Sphinx' style, in runs.

    A run is cut where a parameter's text is too long for a short context.
    """
    text = one.text.rstrip() + "\n"
    defaults = _signature_defaults(one.signature)
    runs: list[list[Entry]] = [[]]
    for head, body, parse in _sections(text):
        entry = parse(head, body, defaults)
        if entry is None:
            runs.append([])
        else:
            runs[-1].append(entry)
    return [run for run in runs if run]


def _sections(text: str) -> Iterator[tuple[str, list[str], Callable]]:
    for section in _NUMPY_SECTION.findall(text):
        for head, body in _blocks(section, 0, _NUMPY_HEAD):
            yield head, body, _numpy_entry
    for section in _GOOGLE_SECTION.findall(text):
        indent = len(section.split("\n")[0]) - len(section.split("\n")[0].lstrip())
        for head, body in _blocks(section, indent, _GOOGLE_HEAD):
            yield head, body, _google_entry
    for section in _SPHINX_SECTION.findall(text):
        for head, body in _blocks(section, 0, _SPHINX_HEAD):
            yield head, body, _sphinx_entry


def _blocks(section: str, indent: int, is_head: re.Pattern) -> Iterator[tuple[str, list[str]]]:
    """(first line, further lines) of each parameter; a line that opens none belongs to the last."""
    head, body = None, []
    for line in section.split("\n"):
        depth = len(line) - len(line.lstrip())
        if line.strip() and depth == indent and is_head.match(line.strip()):
            if head is not None:
                yield head, body
            head, body = line.strip(), []
        elif head is not None:
            if line.strip() and depth < indent:
                break
            body.append(line)
    if head is not None:
        yield head, body


def _numpy_entry(head: str, body: list[str], defaults: dict) -> Entry | None:
    name, colon, kind = head.partition(":")
    name, kind = name.strip(), plain(kind)
    start = f"{name} : {kind}" if " :" in head else f"{name}: {kind}" if colon else name
    return _entry(name, start, len(start) - len(kind), kind, _description(body), defaults)


def _google_entry(head: str, body: list[str], defaults: dict) -> Entry | None:
    found = _GOOGLE_HEAD.match(head)
    name, kind = found[1], plain(found[2] or "")
    start = f"{name} ({kind}):" if kind else f"{name}:"
    name = "" if head.startswith("*") else name
    rest = _description([head[found.end() :], *body])
    return _entry(name, start, len(start) - len(kind) - 2, kind, rest, defaults)


def _sphinx_entry(head: str, body: list[str], defaults: dict) -> Entry | None:
    found = _SPHINX_HEAD.match(head)
    body = body[: next((i for i, line in enumerate(body) if line.startswith(":")), len(body))]
    rest = _description([head[found.end() :], *body])
    return _entry(found[1], f":param {found[1]}:", 0, "", rest, defaults)


def _description(lines: list[str]) -> str:
    """The first paragraph, without mark-up, up to the first list, directive or literal block."""
    kept: list[str] = []
    for line in lines:
        stripped = line.strip()
        if (not stripped and any(kept)) or re.match(r"[-*•] |\d[.)] |\.\. |>>>|\|", stripped):
            break
        kept.append(stripped)
        if stripped.endswith("::"):
            return ""
    return plain(" ".join(kept))


def _entry(
    name: str, start: str, at: int, kind: str, description: str, defaults: dict
) -> Entry | None:
    """An entry out of its head `start` (the type field `kind` begins at `at`) and description."""
    description = _shortened(description, MAX_ENTRY - count_pieces(start))
    text = f"{start} {description}".strip()
    if not text.isascii() or count_pieces(text) > MAX_ENTRY or "  " in text or "$" in text:
        return None
    if not re.fullmatch(r"[A-Za-z]\w*", name) or name == "a":
        return Entry("", text)
    end = _TYPE_ENDS.search(kind)
    kind = kind[: end.start()].rstrip(" ,:;.(") if end else kind.rstrip(" .,")
    typed = (at, at + len(kind)) if 0 < len(kind.split()) <= 12 else None
    begin = len(start) + 1
    meaning = _meaning(description)
    noun = _noun(description, name)
    default, clear = _default_span(text, name, defaults)
    left_out = _LEFT_OUT.search(text, begin)
    silent = set()
    if not _SPEAKS_OF_DEFAULT.search(text):
        silent.add("default")
    if not kind and not _SPEAKS_OF_TYPE.search(description):
        silent.add("type")
    if not description:
        silent.add("meaning")
    return Entry(
        name,
        text,
        typed,
        default,
        left_out.span(1) if left_out and len(left_out[1].split()) >= 3 and clear else None,
        (begin, begin + meaning) if meaning else None,
        noun,
        frozenset(silent),
    )


def _shortened(description: str, pieces: int) -> str:
    """The first sentences, as many as fit; at least one."""
    kept = first_sentence(description)
    while len(kept) < len(description):
        more = first_sentence(description[len(kept) :].lstrip())
        if count_pieces(f"{kept} {more}") > pieces:
            break
        kept = description[: description.index(more, len(kept)) + len(more)]
    return kept


def _meaning(description: str) -> int | None:
    """The length of the first sentence without its stop, where it says what the thing is."""
    sentence = first_sentence(description).rstrip(".!?: ")
    usable = 3 <= len(sentence.split()) <= MAX_ANSWER_WORDS and sentence[:1].isalpha()
    return len(sentence) if usable and not _NOT_A_MEANING.match(sentence) else None


def _noun(description: str, name: str) -> str:
    found = _NOUN.match(description)
    if not found or not (found[1] or found[2].split()[0] in _NOUNS):
        return ""
    words = found[2]
    if len(words.split()) < 2 or {name.lower(), *_NO_NOUNS} & set(words.lower().split()):
        return ""
    if not found[1]:
        words = words[0].lower() + words[1:]
    return f"the {words}" if found[1] in (None, "The") else f"{found[1].lower()} {words}"


def _default_span(text: str, name: str, defaults: dict) -> tuple[tuple[int, int] | None, bool]:
    """(where the default value stands, whether the text is clear about it).

    With a signature at hand the value must be the signature's; without one it must be a literal.
    Two different values, or another than the signature's, are not clear.
    """
    found = {}
    for pattern in _DEFAULTS:
        for match in pattern.finditer(text):
            if name in defaults or _is_literal(match[1]):
                found.setdefault(_same(match[1]), match.span(1))
    if name in defaults:
        value = _same(defaults[name])
        literal = {key for key, (a, b) in found.items() if _is_literal(text[a:b])}
        return (
            (found[value], True) if value in found and literal <= {value} else (None, not literal)
        )
    return (next(iter(found.values())), True) if len(found) == 1 else (None, not found)


def _is_literal(value: str) -> bool:
    return value in ("None", "True", "False") or not value[0].isalpha()


def _same(value: str) -> str:
    """A value in a form that is equal for equal values: quotes and trailing zeros do not count."""
    value = value.strip("'\"")
    try:
        return repr(float(value))
    except ValueError:
        return re.sub(r"[\s\"']", "", value)


def _signature_defaults(signature: str) -> dict[str, str]:
    """parameter → the source of its default."""
    try:
        found = ast.parse(f"def f({signature}): 0").body[0].args
    except SyntaxError:
        return {}
    positional = [*found.posonlyargs, *found.args]
    pairs = [
        *zip(positional[len(positional) - len(found.defaults) :], found.defaults, strict=True),
        *zip(found.kwonlyargs, found.kw_defaults, strict=True),
    ]
    return {argument.arg: ast.unparse(value) for argument, value in pairs if value is not None}


# --- Questions: how people ask --------------------------------------------------------------------

# {p} stands for the parameter: `tol`, "the tolerance", "the smallest step". The second list of
# each is never used in training: its first two wordings for validation, the others for the test.
ASK_DEFAULT = (
    (
        "What is the default of {p}?",
        "Which value does {p} take when it is not given?",
        "What does {p} default to?",
        "What is {p} set to unless I change it?",
        "What value is assumed for {p}?",
        "What is the default value for {p}?",
        "If I do not pass {p}, which value is used?",
        "Which setting of {p} do I get if I say nothing?",
        "What is {p} by default?",
        "Which value stands in for {p} when it is left out?",
        "What does {p} fall back to?",
        "Leaving {p} alone means which value?",
        "Which value will {p} have if I pass nothing?",
        "How is {p} preset?",
        "When I call it without {p}, which value applies?",
        "Is there a default for {p}, and which?",
        "To what is {p} set from the start?",
        "Which value is taken for {p} in the absence of an argument?",
    ),
    (
        "What does {p} start out as?",
        "What is the standard setting of {p}?",
        "If the choice is not mine, what is {p}?",
        "What value has {p} out of the box?",
        "What does the function pick for {p} on its own?",
        "Which value is {p} given if it is never mentioned?",
        "What comes preselected for {p}?",
        "Calling it bare, what does {p} equal?",
    ),
)
ASK_LEFT_OUT = (
    (
        "What happens if I leave out {p}?",
        "What is used when {p} is omitted?",
        "What if {p} is not given?",
        "What happens without {p}?",
        "If nobody passes {p}, what happens?",
        "What is done when {p} is not specified?",
        "What follows if I do not set {p}?",
        "What happens by default with {p}?",
        "What takes the place of {p} when it is missing?",
        "Can I omit {p}, and what happens then?",
        "How is {p} chosen when I do not say?",
        "What is the behaviour if {p} stays unset?",
        "What does it do when there is no {p}?",
        "And if I do not give {p}?",
        "What is assumed when {p} is absent?",
        "How does it behave without {p}?",
    ),
    (
        "I never mention {p} in my call: what do I get?",
        "Suppose {p} is lacking in the call. What then?",
        "What becomes of {p} if I keep silent about it?",
        "Is something else taken when nothing is said of {p}?",
        "What would be the effect of skipping {p}?",
        "I forgot {p}; what will it do?",
        "Do I have to give {p}, or does it manage on its own?",
        "Does it cope if I drop {p}, and how?",
    ),
)
ASK_TYPE = (
    (
        "What type is {p}?",
        "What kind of object should {p} be?",
        "Which type does {p} have?",
        "What type of value does {p} expect?",
        "What may I pass for {p}?",
        "What sort of thing is accepted as {p}?",
        "Of which type must {p} be?",
        "What can {p} be?",
        "In which form do I give {p}?",
        "Which kind of argument is {p}?",
        "What data type does {p} need?",
        "As what is {p} passed?",
        "Which values are allowed for {p}?",
        "Does {p} have to be of a certain type?",
        "What object do I need for {p}?",
        "What is the type of {p}?",
    ),
    (
        "What do I have to hand over as {p}?",
        "What goes into {p} in Python?",
        "What class does {p} belong to?",
        "What am I supposed to put in for {p}: a number, a string, something else?",
        "How should {p} be represented?",
        "What format does {p} come in?",
        "What do you feed in for {p}?",
        "Could I write {p} as text, or what else?",
    ),
)
ASK_MEANING = (
    (
        "What does {p} mean?",
        "What is {p} for?",
        "What does {p} control?",
        "What is the purpose of {p}?",
        "What does {p} do?",
        "What is meant by {p}?",
        "Explain {p}.",
        "What does {p} stand for?",
        "What is {p} about?",
        "How is {p} described?",
        "What is the meaning of {p}?",
        "What do I say with {p}?",
        "What is {p} used for?",
        "What is the point of {p}?",
        "What does {p} refer to?",
        "What does {p} tell the function?",
    ),
    (
        "What role does {p} play?",
        "In plain words, what is {p}?",
        "I do not understand {p}. What is it?",
        "Why would anybody set {p}?",
        "What should I know about {p}?",
        "Tell me what {p} is there for.",
        "Describe {p} in a few words.",
        "What is the idea behind {p}?",
    ),
)
NAMED = ("{n}", "{n}", "{n}", "the parameter {n}", "the {n} argument", "`{n}`", "'{n}'")
SPOKEN = {
    "n": "number of", "num": "number of", "nb": "number of", "max": "maximum", "min": "minimum",
    "tol": "tolerance", "iter": "iterations", "init": "initial", "dim": "dimension",
    "dims": "dimensions", "func": "function", "fn": "function", "fun": "function", "idx": "index",
    "arr": "array", "var": "variable", "eps": "epsilon", "lr": "learning rate", "src": "source",
    "dst": "destination", "tgt": "target", "fname": "file name", "filename": "file name",
    "str": "string", "val": "value", "ax": "axes", "fig": "figure", "cmap": "colour map",
    "params": "parameters", "param": "parameter", "attr": "attribute", "msg": "message",
    "pos": "position", "loc": "location", "obj": "object", "args": "arguments", "kw": "keyword",
    "cls": "class", "ctx": "context", "cov": "covariance", "freq": "frequency", "deg": "degree",
    "coef": "coefficient", "coeff": "coefficient", "mat": "matrix", "vec": "vector",
    "rtol": "relative tolerance", "atol": "absolute tolerance", "maxiter": "maximum iterations",
    "dtype": "data type", "df": "data frame", "ord": "order", "proba": "probability",
    "axis": "axis", "jobs": "jobs", "rng": "random generator", "dir": "directory",
    "prev": "previous", "ref": "reference", "temp": "temporary", "len": "length",
    "sep": "separator",
}  # fmt: skip
LIKE_WORDS = {
    "maximum": "largest", "minimum": "smallest", "number": "count", "initial": "starting",
    "upper": "higher", "tolerance": "allowed error", "size": "extent",
}  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A short stretch of a docstring's parameters: a context."""

    package: str
    module: str
    function: str
    entries: tuple[Entry, ...]
    others: tuple[Entry, ...]  # of the same docstring, not in the context

    @property
    def text(self) -> str:
        return " ".join(entry.text for entry in self.entries)

    @property
    def split(self) -> str:
        return module_split(self.module)

    def start(self, entry: Entry) -> int:
        """Where the entry's text begins in the context's."""
        before = self.entries[: self.entries.index(entry)]
        return sum(len(one.text) + 1 for one in before)


KINDS = {"default": 0.30, "type": 0.30, "meaning": 0.20, "unanswerable": 0.20}
SECTIONS_PER_MODULE, QUESTIONS_PER_SECTION = 8, 3


def make_questions(docstrings: Iterable[docs.Docstring]) -> Iterator[dict]:
    """The questions as rows of `load_docs_questions`, and `split`."""
    found = _without_repeats(_context_sections(docstrings))
    found = _without_twins(found, lambda s: _stems(s.text), lambda s: s.split)
    for split in SPLITS:
        rows = _ask(_by_turns([s for s in found if s.split == split]), split)
        yield from sorted(rows, key=lambda row: row["id"])


def _ask(sections: list[Section], split: str) -> Iterator[dict]:
    """Up to QUESTIONS[split] questions, of each kind its part."""
    left = {kind: round(part * QUESTIONS[split]) for kind, part in KINDS.items()}
    for section in sections:
        options = list(_askable(section, split))
        options.sort(key=lambda option: _number("ask", section.text, option.question))
        # what is scarce comes first: else meanings, of which there are most, take all the places
        options.sort(key=lambda option: -left[option.kind] / KINDS[option.kind])
        asked: list[Question] = []
        for option in options:
            seen = {what for one in asked for what in (one.kind, one.name)}
            if left[option.kind] and not seen & {option.kind, option.name}:
                left[option.kind] -= 1
                asked.append(option)
                yield {
                    "id": f"{split}-{_number(section.text, option.question):016x}",
                    "context": section.text,
                    "question": option.question,
                    "answer": option.answer,
                    "start": option.start,
                    "kind": option.kind,
                    "module": section.module,
                    "split": split,
                }
            if len(asked) == QUESTIONS_PER_SECTION:
                break


def _context_sections(docstrings: Iterable[docs.Docstring]) -> Iterator[Section]:
    """Up to SECTIONS_PER_MODULE sections of each module, in an order drawn by hash."""
    modules: dict[str, list[docs.Docstring]] = defaultdict(list)
    for one in docstrings:
        if _HAS_PARAMETERS.search(one.text):
            modules[one.module].append(one)
    for module in sorted(modules, key=lambda name: _number("sections", name)):
        group = sorted(modules[module], key=lambda one: _number("section", one.name, one.text))
        sections = (section for one in group for section in _sections_of(one))
        yield from itertools.islice(sections, SECTIONS_PER_MODULE)


def _sections_of(one: docs.Docstring) -> Iterator[Section]:
    runs = parameter_entries(one)
    entries = [entry for run in runs for entry in run]
    for run in runs:
        for window in _windows(run):
            names = [entry.name for entry in window if entry.name]
            if len(names) >= 2 and len(set(names)) == len(names):
                others = tuple(e for e in entries if e.name and e.name not in names)
                yield Section(one.package, one.module, one.name, tuple(window), others)


def _windows(run: list[Entry]) -> Iterator[list[Entry]]:
    """Neighbouring parameters, as many as MAX_CONTEXT pieces hold."""
    window, pieces = [], 0
    for entry in run:
        more = count_pieces(entry.text)
        if window and pieces + more > MAX_CONTEXT:
            yield window
            window, pieces = [], 0
        window.append(entry)
        pieces += more
    yield window


def _without_repeats(sections: Iterable[Section]) -> list[Section]:
    """Of sections that share a parameter's whole text across splits, the first."""
    owner: dict[str, str] = {}
    kept = []
    for section in sections:
        texts = [_letters(e.text) for e in section.entries if count_pieces(e.text) > 12]
        if all(owner.get(text, section.split) == section.split for text in texts):
            owner.update(dict.fromkeys(texts, section.split))
            kept.append(section)
    unique = {section.text: section for section in reversed(kept)}
    return [section for section in kept if unique[section.text] is section]


def _by_turns(sections: list[Section]) -> list[Section]:
    """The same sections, the packages by turns: no large package fills a split alone."""
    queues: dict[str, list[Section]] = defaultdict(list)
    for section in sections:
        queues[section.package].append(section)
    places = [(i, name, s) for name, queue in queues.items() for i, s in enumerate(queue)]
    return [section for _, _, section in sorted(places, key=lambda place: place[:2])]


class Question(NamedTuple):
    """What can be asked about a section; start and answer as in `load_docs_questions`."""

    kind: str
    name: str
    question: str
    start: int
    answer: str


def _askable(section: Section, split: str) -> Iterator[Question]:
    """What can be asked about a section."""

    def ask(wordings, entry: Entry, kind: str, span: tuple[int, int] | None):
        seed = (section.module, section.function, entry.text, kind)
        known, unseen = wordings
        choice = {"train": known, "validation": unseen[:2], "test": unseen[2:]}[split]
        if _number("known", *seed) % 4 == 0:
            choice = known
        wording = _choose(choice, "wording", *seed)
        reference = _reference(entry, section, kind, seed)
        question = wording.replace("{p}", reference)
        if span is None:
            return Question("unanswerable", entry.name, question, -1, "")
        start = section.start(entry) + span[0]
        return Question(kind, entry.name, question, start, entry.text[span[0] : span[1]])

    for entry in section.entries:
        if not entry.name:
            continue
        if entry.default:
            yield ask(ASK_DEFAULT, entry, "default", entry.default)
        elif entry.left_out:
            yield ask(ASK_LEFT_OUT, entry, "default", entry.left_out)
        if entry.type:
            yield ask(ASK_TYPE, entry, "type", entry.type)
        if entry.meaning:
            yield ask(ASK_MEANING, entry, "meaning", entry.meaning)
        for kind in sorted(entry.silent_on):
            yield ask(_WORDINGS[kind], entry, kind, None)
    absent = [e for e in section.others if not _is_mentioned(e, section.text)]
    if absent:
        entry = _choose(absent, "absent", section.text)
        kind = _choose(("default", "type", "meaning"), "absent kind", section.text)
        yield ask(_WORDINGS[kind], entry, kind, None)


_WORDINGS = {
    "default": tuple(a + b for a, b in zip(ASK_DEFAULT, ASK_LEFT_OUT, strict=True)),
    "type": ASK_TYPE,
    "meaning": ASK_MEANING,
}


def _is_mentioned(entry: Entry, text: str) -> bool:
    words = set(name_words(text))
    return set(name_words(entry.name)) <= words or bool(
        entry.noun and _stems(entry.noun) <= _stems(text)
    )


def _reference(entry: Entry, section: Section, kind: str, seed: tuple[str, ...]) -> str:
    """How the question names the parameter: by name, by its name as spoken, or described."""
    draw = _number("reference", *seed) % 100
    if draw < 60 and entry.noun and kind != "meaning" and _is_unique(entry, section):
        words = [
            LIKE_WORDS.get(word, word) if _number("like", word, *seed) % 2 else word
            for word in entry.noun.split()
        ]
        return " ".join(words)
    spoken = " ".join(SPOKEN.get(word, word) for word in name_words(entry.name))
    if draw < 80 and spoken != entry.name.lower() and len(spoken) > 3:
        return f"the {spoken}" + _choose((" argument", "", ""), "spoken", *seed)
    return _choose(NAMED, "named", *seed).replace("{n}", entry.name)


def _is_unique(entry: Entry, section: Section) -> bool:
    """True when the noun can only mean this entry."""
    noun = _stems(entry.noun)
    return all(
        len(noun & _stems(other.text)) < 0.6 * len(noun)
        for other in section.entries
        if other.name != entry.name
    )


# The baselines of questions.


_RULE_KINDS = {  # from the training set's wordings; what is neither is taken for a meaning
    "default": "default|preset|fall back|assumed|omit|left out|leave out|leaving|without|absen|"
    "missing|nobody|unless|unset|from the start|there is no|pass nothing|say nothing|"
    "not (?:given|give|pass|set|say|specified)",
    "type": r"\btype\b|kind of|sort of|pass for|passed\?|what can|which form|allowed|accepted|"
    "object",
}
_RULE_ENTRY = re.compile(
    r"(?:^|(?<=\s))(?:\*{0,2}([A-Za-z_]\w*)(?: :(?= )| \(([^()]*)\):|:(?= ))|:param (\w+):)"
)
_RULE_DEFAULTS = (
    r"(?i)\bdefaults?(?: value)?(?: is| to)?\s*[:=]?\s*('[^']*'|\"[^\"]*\"|[^\s,;)]+)",
    r"(\S+) by default",
    r"(?i)\bif (?:none|not \w+|omitted),? (.*?)(?:\.(?:\s|$)|$)",
    r"(?i)\bby default,? (.*?)(?:\.(?:\s|$)|$)",
)


def answer_by_rules(question: str, context: str) -> str:
    """What regular expressions find: the parameter, then what is asked of it; "" is "no answer".

    The rules are those of a programmer who has read the training set's questions.
    """
    asks = question.lower()
    kind = next((k for k, words in _RULE_KINDS.items() if re.search(words, asks)), "meaning")
    heads = list(_RULE_ENTRY.finditer(context))
    ends = [*(head.start() for head in heads[1:]), len(context)][: len(heads)]
    found = {h[1] or h[3]: (h[2], context[h.end() : e].strip()) for h, e in zip(heads, ends)}
    name = _rule_name(question, {name: text for name, (_, text) in found.items()})
    if name is None:
        return ""
    in_brackets, text = found[name]
    if kind == "default":
        whole = f"{in_brackets}) {text}" if in_brackets else text
        matches = (re.search(pattern, whole) for pattern in _RULE_DEFAULTS)
        return next((match[1].rstrip(".") for match in matches if match), "")
    # NumPy's style on one line, "tol : float, optional Smallest step.": the capital ends the type
    head = in_brackets if in_brackets else re.match(r"[^A-Z]*", text)[0]
    if kind == "type":
        return re.split(r",? \(?(?:optional|default)|^optional", head)[0].strip(" ,")
    meaning = text if in_brackets else text[len(head) :] or head
    return first_sentence(meaning).rstrip(". ")


def _rule_name(question: str, texts: dict[str, str]) -> str | None:
    """The parameter that the question names, or whose text shares most words with it."""
    asked = set(re.findall(r"\w+", question))
    for name in texts:
        if name in asked:
            return name
    for name in texts:
        if name.replace("_", " ").lower() in question.lower():
            return name
    shared = {name: len(_stems(question) & _stems(text)) for name, text in texts.items()}
    best = max(shared, key=shared.get, default=None)
    return best if best and shared[best] >= 2 else None
