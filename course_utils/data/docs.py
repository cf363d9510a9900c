"""The docs corpus: the docstrings of installed packages, real prose that every reader has on disk.

Nothing is downloaded and nothing is imported: the packages' source files are parsed and their
docstrings taken out, Python's own language reference (`pydoc_data`) beside them. The text stays the
packages' own, under their licences; it is read from the reader's disk and never distributed.
"""

import ast
import hashlib
import importlib.metadata
import inspect
import json
import platform
import re
import sys
import sysconfig
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tqdm.auto import tqdm

from course_utils import wordpiece
from course_utils.data.cache import cached, sha256

# Those with the most prose for their size. A package of copied prose (transformers' model files)
# would cost a third of the time and add little: equal sentences are kept once.
PACKAGES = (
    "python",  # the standard library, and the language reference
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "matplotlib",
    "networkx",
    "sympy",
    "torch",
)
NOT_DOCUMENTATION = {
    "tests", "test", "testing", "site-packages", "dist-packages", "idlelib", "lib2to3",
    "_vendor", "_vendored", "vendored_packages", "externals",
    "_inductor", "_dynamo",  # torch's compiler: notes to its developers
}  # fmt: skip

MIN_WORDS, MAX_WORDS = 6, 60


@dataclass(frozen=True)
class Docstring:
    """One docstring, cleaned of its indentation only.

    `name` is the dotted path in its module ("Linear.forward"), "" for the module's own docstring.
    `signature` is the source of the parameter list ("input, bias=True"), "" for classes.
    """

    package: str
    module: str
    name: str
    signature: str
    text: str


@dataclass(frozen=True)
class Document:
    """The prose of one module: its sentences in the order of the source file."""

    name: str
    package: str
    sentences: list[str]


@dataclass(frozen=True)
class Corpus:
    """The docs corpus.

    `fingerprint` maps each package that was found to its version: two readers with the same
    fingerprint have the same corpus. `missing` names the packages that are not installed.
    """

    documents: list[Document]
    fingerprint: dict[str, str]
    missing: list[str]

    def sentences(self) -> list[str]:
        """All sentences, document after document."""
        return [sentence for document in self.documents for sentence in document.sentences]

    @cached_property
    def words(self) -> int:
        """The number of words, counted at white space."""
        return sum(len(sentence.split()) for sentence in self.sentences())

    def split(self, every: int = 20) -> tuple["Corpus", "Corpus"]:
        """(training, held out): about one document in `every` is held out, whole.

        Which ones is decided by a hash of their names: a document that is held out here is held
        out on every machine, whatever other packages are there. Raises ValueError for `every`
        under 2.
        """
        if every < 2:
            raise ValueError(f"every must be 2 or more (20 holds out a twentieth), not {every}.")
        training, held_out = [], []
        for document in self.documents:
            is_out = zlib.crc32(document.name.encode()) % every == 0
            (held_out if is_out else training).append(document)
        return (
            Corpus(training, self.fingerprint, self.missing),
            Corpus(held_out, self.fingerprint, self.missing),
        )


def docs_corpus(progress: bool = True) -> Corpus:
    """The docs corpus of this machine: at least 1,000,000 words with the course's environment.

    Built at the first call (under a minute, with a progress bar), then read from the cache. A
    package that is not installed is left out, and a printed line says so.
    """
    fingerprint, missing = _installed()
    if missing:
        print(f"The docs corpus is made without {', '.join(missing)}: not installed.")
    with open(_entry(fingerprint, progress) / "documents.jsonl", encoding="utf-8") as lines:
        documents = [Document(**json.loads(line)) for line in lines]
    return Corpus(documents, fingerprint, missing)


def docstrings(progress: bool = True) -> list[Docstring]:
    """The docstrings that the corpus is made of, as they stand in the source. Same cache entry."""
    fingerprint, _ = _installed()
    with open(_entry(fingerprint, progress) / "docstrings.jsonl", encoding="utf-8") as lines:
        return [Docstring(**json.loads(line)) for line in lines]


def read_text_files(paths: Iterable[Path]) -> Corpus:
    """A corpus out of UTF-8 text files of the reader's, a blank line between paragraphs.

    A line " = Title = ", as in wikitext, begins a document; a document of more than 100 sentences
    is cut into parts, so that one book gives many. Raises ValueError for a file that is missing,
    is not UTF-8 or has no sentence of 6 to 60 words in it.
    """
    documents = []
    for path in map(Path, paths):
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"{path} can not be read: {error.strerror}.") from None
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is not UTF-8 text: {error.reason} at byte {error.start}."
            ) from None
        found = _articles(path.name, text)
        if not found:
            raise ValueError(f"{path} holds no sentence of {MIN_WORDS} to {MAX_WORDS} words.")
        documents += found
    return Corpus(documents, {}, [])


def wikitext2(source: str = "Salesforce/wikitext") -> Corpus:
    """The training split of WikiText-2 (600 Wikipedia articles, 2 million words; CC BY-SA).

    source  the data set's name on the Hub, or a folder of the same layout. Raises ValueError where
    neither answers.
    """
    from datasets import load_dataset  # a second to import, and only full scale needs it

    try:
        lines = load_dataset(source, "wikitext-2-raw-v1", split="train")["text"]
    except Exception as error:  # no network, no such data set, a broken file, …
        reason = str(error).strip().split("\n")[0][:120]
        raise ValueError(
            f"{source} can not be loaded ({type(error).__name__}: {reason})."
        ) from None
    return Corpus(_articles("WikiText-2", "".join(lines)), {}, [])


def _articles(name: str, text: str) -> list[Document]:
    """Documents of at most 100 sentences out of plain text or wikitext."""
    text = re.sub(r" @(\W)@ ", r"\1", text)  # wikitext writes "well @-@ known"
    documents = []
    for article in re.split(r"(?m)^ = [^=].*[^=] = ?$", text):
        sentences = list(split_sentences(re.sub(r"(?m)^ = .* = ?$", "", article)))  # headings
        for start in range(0, len(sentences), 100):
            part = f"{name}, part {len(documents) + 1}"
            documents.append(Document(part, "files", sentences[start : start + 100]))
    return documents


# --- Finding ----------------------------------------------------------------------------------


def _installed() -> tuple[dict[str, str], list[str]]:
    """({package: version} of those found, [those not found])."""
    found, missing = {"python": platform.python_version()}, []
    for package in PACKAGES[1:]:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    return found, missing


def _entry(fingerprint: dict[str, str], progress: bool) -> Path:
    config = {"made by": sha256(Path(__file__)), "packages": fingerprint}
    return cached("docs", config, lambda folder: _build(folder, tuple(fingerprint), progress))


def _source_files(package: str) -> list[tuple[str, Path]]:
    """(dotted module name, file) of a package's documented modules, in a fixed order."""
    if package == "python":
        root = Path(sysconfig.get_paths()["stdlib"])
        files = [(path.relative_to(root), path) for path in root.rglob("*.py")]
    else:
        listed = importlib.metadata.files(package) or []
        files = [(Path(path), Path(path.locate())) for path in listed if path.suffix == ".py"]
    named = []
    for relative, path in files:
        inside = set(relative.parts) & NOT_DOCUMENTATION
        if not inside and ".." not in relative.parts and not relative.name.startswith("test_"):
            parts = [part for part in relative.with_suffix("").parts if part != "__init__"]
            named.append((".".join(parts), path))
    return sorted(named, key=lambda pair: pair[0])


def _read_docstrings(package: str, module: str, path: Path) -> Iterator[Docstring]:
    """The docstrings of one file, in its order. A file that can not be parsed gives none."""
    try:
        source = path.read_bytes()
        if b'"""' not in source and b"'''" not in source:
            return  # no docstring worth the parsing
        tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError):
        return

    def visit(node: ast.AST, name: str) -> Iterator[Docstring]:
        text = ast.get_docstring(node)
        if text:
            signature = ast.unparse(node.args) if hasattr(node, "args") else ""
            yield Docstring(package, module, name, signature, text)
        for child in node.body:
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from visit(child, f"{name}.{child.name}" if name else child.name)

    yield from visit(tree, "")


def _language_reference() -> Iterator[Docstring]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield Docstring(
            "python", f"language reference, {name}", "", "", inspect.cleandoc(topics[name])
        )


def _build(folder: Path, packages: tuple[str, ...], progress: bool) -> None:
    work = [(package, *named) for package in packages for named in _source_files(package)]
    bar = tqdm(
        work, desc="docs corpus", unit="file", file=sys.stdout, leave=False, disable=not progress
    )
    found = list(_language_reference())
    for package, module, path in bar:
        found.extend(_read_docstrings(package, module, path))
    with open(folder / "docstrings.jsonl", "w", encoding="utf-8") as out:
        for one in found:
            out.write(json.dumps(vars(one), ensure_ascii=False) + "\n")
    with open(folder / "documents.jsonl", "w", encoding="utf-8") as out:
        for document in _documents(found):
            out.write(json.dumps(vars(document), ensure_ascii=False) + "\n")


def _documents(found: list[Docstring]) -> Iterator[Document]:
    """One document a module. Of sentences that differ in digits and marks only, the first stays."""
    seen: set[str] = set()
    by_module: dict[tuple[str, str], list[str]] = {}
    for one in found:
        kept = by_module.setdefault((one.package, one.module), [])
        for sentence in split_sentences(one.text):
            letters = re.sub(r"[^a-z]+", " ", sentence.lower())
            if letters not in seen:
                seen.add(letters)
                kept.append(sentence)
    for (package, module), sentences in by_module.items():
        if len(sentences) >= 2:  # a document that can not give a next sentence is of no use here
            yield Document(module, package, sentences)


# --- Cleaning ---------------------------------------------------------------------------------

_ROLE = re.compile(r":[\w:+-]+:`[~!.]?([^`<]*?)(?:\s*<[^`]*>)?`")  # :class:`~torch.Tensor`
_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}|`([^`]+)`__?")  # `text <address>`_
_REFERENCE = re.compile(r"(\[[\w.-]+\])_")  # [1]_
_MARKS = re.compile(r"``|`|\*\*|(?<!\w)\*(?=\w)|(?<=\w)\*(?!\w)")
_UNDERLINE = re.compile(r"\s*([=\-~^\"'*#+.])\1{2,}\s*$")
_BULLET = re.compile(r"\s*(?:[-*+•]|\d+[.)]|\(\d+\)|[a-z]\))\s+")
_PARAMETER = re.compile(r"\s*[\w*, .\"'\[\]]+\s:(?:\s|$)|\s*:\w[\w\s.*]*:\s|\s*@\w+")
_CODE = re.compile(r"\s*(>>>|\.\.\. |\$ |In \[|Out\[|\.\. |\||\+[-=+])")
_TERM = re.compile(r"\s*[\w*]+(?:\s*\([^)]*\))?:(?:\s+|$)")  # "name (type): text", Google's style
_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)(?<!\bcf)(?<!\bal)(?<!\bFig)(?<!\bEq)(?<!\bsec)"
    r"(?<!\bapprox)(?<!\bresp)(?<=[.!?])[\"')]?\s+(?=[A-Z\"'(])"
)
_SENTENCE = re.compile(r"[A-Z\"'(].*[.!?:][\"')]?$", re.DOTALL)


def split_sentences(text: str) -> Iterator[str]:
    """The sentences of a docstring or of plain text that are prose, in order.

    Code, tables, headings, parameter lines and mark-up are taken out. A sentence has 6 to 60 words,
    begins like one, ends with a stop, and at least 80 % of its characters are letters or spaces.
    """
    for paragraph in _paragraphs(text):
        for sentence in _END.split(paragraph):
            sentence = sentence.strip()
            letters = sum(character.isalpha() or character == " " for character in sentence)
            if (
                MIN_WORDS <= len(sentence.split()) <= MAX_WORDS
                and _SENTENCE.match(sentence)
                and letters >= 0.8 * len(sentence)
            ):
                yield sentence


def _paragraphs(text: str) -> Iterator[str]:
    """Runs of prose lines, joined, without mark-up."""
    current: list[str] = []
    code_deeper_than = None  # inside a literal block: the indentation of the line that opened it
    in_example = False  # behind ">>>": what was printed, up to the next blank line
    for line in [*text.splitlines(), ""]:
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        in_example = bool(stripped) and (in_example or stripped.startswith(">>>"))
        if in_example and not stripped.startswith(">>>"):
            continue
        if code_deeper_than is not None:
            if not stripped or indent > code_deeper_than:
                continue
            code_deeper_than = None
        if _UNDERLINE.match(line):
            current = current[:-1]  # the line above it was a heading
            continue
        is_code = bool(_CODE.match(line))
        opening = _BULLET.match(line) or _TERM.match(line)
        if is_code or not stripped or opening or _PARAMETER.match(line):
            if current:
                yield _plain(current)
            current = []
        if is_code:
            code_deeper_than = indent  # a directive's or an example's further lines
        elif stripped and not _PARAMETER.match(line):
            text_line = line[opening.end() :] if opening else line
            current.append(text_line.strip())
            if stripped.endswith("::"):
                yield _plain([*current[:-1], current[-1][:-1]])
                current = []
                code_deeper_than = indent


def _plain(lines: list[str]) -> str:
    text = " ".join(lines)
    text = _ROLE.sub(
        lambda match: match[1].rsplit(".", 1)[-1] if "/" not in match[1] else match[1], text
    )
    text = _LINK.sub(lambda match: match[1] or match[2], text)
    text = _REFERENCE.sub(r"\1", text)
    return re.sub(r"\s+", " ", _MARKS.sub("", text)).strip()


# --- A vocabulary ---------------------------------------------------------------------------------


def train_tokenizer(sentences: list[str], vocab_size: int = 4000) -> Tokenizer:
    """A WordPiece tokenizer of up to `vocab_size` pieces, trained by lesson 04's `train_wordpiece`.

    Lowercase and without accents, as bert-base-uncased; `encode(text)` and `encode(a, b)` give
    [CLS] a [SEP] and [CLS] a [SEP] b [SEP] with their segment ids. Words that occur once or twice
    have no say, and a character found in them only is unknown. The same sentences give the same
    vocabulary, kept in the cache: the first time takes about half a minute for the docs corpus.
    Raises ValueError without text, or without room for the characters.
    """
    text = "\n".join(sentences)
    config = {
        "text": hashlib.sha256(text.encode()).hexdigest(),
        "vocab_size": vocab_size,
        "made by": [sha256(Path(__file__)), sha256(Path(wordpiece.__file__))],
    }

    def build(folder: Path) -> None:
        counts = _count_words(sentences)
        frequent = {word: n for word, n in counts.items() if n > 2 or len(counts) < 1000}
        wordpiece.WordPiece(wordpiece.train_wordpiece(frequent, vocab_size)).save(folder)

    return fast_tokenizer(cached("vocabulary", config, build) / "vocab.txt")


def fast_tokenizer(vocabulary: Path) -> Tokenizer:
    """The tokenizers library's WordPiece, lowercasing, on the vocabulary in a `vocab.txt`.

    The same pieces as lesson 04's `WordPiece`, some fifty times faster. Raises ValueError that
    names a special token that the vocabulary lacks.
    """
    pieces = vocabulary.read_text(encoding="utf-8").splitlines()
    ids = {piece: i for i, piece in enumerate(pieces)}
    lacking = [token for token in wordpiece.SPECIAL_TOKENS if token not in ids]
    if lacking:
        raise ValueError(f"the vocabulary {vocabulary.name} has no {' and no '.join(lacking)}.")
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(wordpiece.SPECIAL_TOKENS))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _count_words(sentences: list[str]) -> Counter[str]:
    """`wordpiece.count_words`, by the library's normalizer and pre-tokenizer: the same, faster."""
    normalizer = normalizers.BertNormalizer(lowercase=True)
    split = pre_tokenizers.BertPreTokenizer()
    return Counter(
        word
        for sentence in sentences
        for word, _ in split.pre_tokenize_str(normalizer.normalize_str(sentence))
    )
