"""course_utils/data/docs.py: docstrings found, cleaned into sentences, split; a vocabulary."""

import importlib.metadata
import os
import textwrap
from pathlib import Path

import pytest
from datasets import Dataset

from course_utils.data import docs
from course_utils.data.docs import (
    Corpus,
    Document,
    docs_corpus,
    docstrings,
    fast_tokenizer,
    read_text_files,
    split_sentences,
    train_tokenizer,
    wikitext2,
)
from course_utils.wordpiece import SPECIAL_TOKENS, count_words

NUMPY_STYLE = """
    Return the largest value of an array, as a number.

    Values that are not numbers are passed over.  They are counted, though, e.g. in the
    total of :func:`~package.module.count_all`.

    Parameters
    ----------
    array : array_like
        The values among which the largest one is looked for.
    axis : int, optional
        Axis along which to look.

    Examples
    --------
    >>> largest([1, 2, 3])
    A printed answer that nobody should read as a sentence.

    Notes
    -----
    The method is described in [1]_ and in the `user guide <guide.html>`_ as well::

        code = that_is_not("a sentence of the corpus at all.")

    It takes one pass over the values, whatever their order is.
"""


def test_a_docstring_gives_its_prose_without_mark_up_code_and_headings():
    assert list(split_sentences(textwrap.dedent(NUMPY_STYLE))) == [
        "Return the largest value of an array, as a number.",
        "Values that are not numbers are passed over.",
        "They are counted, though, e.g. in the total of count_all.",
        "The values among which the largest one is looked for.",
        "The method is described in [1] and in the user guide as well:",
        "It takes one pass over the values, whatever their order is.",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Too short to count.",
        "no capital letter begins this line of words here.",
        "This line of more than six words ends nowhere",
        "The numbers 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13.",
        "Words " + "words " * 60 + "words.",
    ],
)
def test_what_is_no_sentence_is_left_out(text):
    assert list(split_sentences(text)) == []


def test_lists_and_google_style_parameters_begin_sentences_of_their_own():
    text = textwrap.dedent("""
        Args:
            input (Tensor): The tensor that is to be read in.
            dim: The dimension along which it is read in.

        - The first point is a sentence as well.
        - The second point is another one, too.
    """)
    assert list(split_sentences(text)) == [
        "The tensor that is to be read in.",
        "The dimension along which it is read in.",
        "The first point is a sentence as well.",
        "The second point is another one, too.",
    ]


def test_docstrings_come_in_source_order_with_name_and_signature(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        '"""Of the module."""\n'
        'class A:\n    """Of A."""\n    def f(self, x, y=1):\n        """Of f."""\n'
        'def g():\n    """Of g."""\n'
    )
    found = [
        (d.name, d.signature, d.text) for d in docs._read_docstrings("package", "module", file)
    ]
    assert found == [
        ("", "", "Of the module."),
        ("A", "", "Of A."),
        ("A.f", "self, x, y=1", "Of f."),
        ("g", "", "Of g."),
    ]


def test_a_file_that_does_not_parse_gives_nothing(tmp_path):
    file = tmp_path / "module.py"
    file.write_bytes(b'"""Broken""" def (')
    assert list(docs._read_docstrings("package", "module", file)) == []
    assert list(docs._read_docstrings("package", "module", tmp_path / "gone.py")) == []


def test_the_corpus_is_large_in_document_order_and_free_of_repeats():
    corpus = docs_corpus(progress=False)
    sentences = corpus.sentences()
    assert corpus.words >= 1_000_000
    assert len(set(sentences)) == len(sentences)
    assert all(len(document.sentences) >= 2 for document in corpus.documents)
    assert all(6 <= len(sentence.split()) <= 60 for sentence in sentences)
    assert corpus.fingerprint["numpy"] == importlib.metadata.version("numpy")
    by_module = {}
    for one in docstrings(progress=False):
        by_module[one.module] = by_module.get(one.module, "") + one.text
    document = next(d for d in corpus.documents if d.name == "torch.nn.modules.linear")
    first_words = [" ".join(s.split()[:2]) for s in document.sentences[:3]]
    places = [by_module[document.name].find(words) for words in first_words]
    assert places == sorted(places) and places[0] >= 0


def test_a_package_that_is_missing_is_left_out_and_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(docs, "PACKAGES", ("python", "no-such-package"))
    monkeypatch.setattr(docs, "_source_files", lambda package: [])  # the language reference only
    corpus = docs_corpus(progress=False)
    assert corpus.missing == ["no-such-package"]
    assert "without no-such-package: not installed" in capsys.readouterr().out
    assert set(corpus.fingerprint) == {"python"}


def test_held_out_documents_are_whole_and_the_same_in_every_corpus():
    documents = [Document(f"module{i}", "package", ["A.", "B."]) for i in range(400)]
    training, held_out = Corpus(documents, {}, []).split()
    assert not {d.name for d in training.documents} & {d.name for d in held_out.documents}
    assert len(training.documents) + len(held_out.documents) == 400
    assert 5 <= len(held_out.documents) <= 40  # about a twentieth
    _, of_half = Corpus(documents[::2], {}, []).split()
    assert {d.name for d in of_half.documents} <= {d.name for d in held_out.documents}
    with pytest.raises(ValueError, match="every must be 2 or more"):
        Corpus(documents, {}, []).split(every=1)


def test_text_files_become_documents(tmp_path):
    plain = tmp_path / "book.txt"
    plain.write_text("It was a dark and stormy night.\n" * 250)
    wiki = tmp_path / "wiki.txt"
    wiki.write_text(
        " = First = \n\n It is a well @-@ known place in the north . \n"
        " = = History = = \n The town was founded a long time ago . \n"
        " = Second = \n\n It was a band from the other side of town . \n"
    )
    corpus = read_text_files([plain, wiki])
    assert [len(d.sentences) for d in corpus.documents] == [100, 100, 50, 2, 1]
    assert corpus.documents[3].sentences[0] == "It is a well-known place in the north ."


def test_wikitext_is_read_from_a_folder_of_the_hubs_layout(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: wikitext-2-raw-v1\n  data_files:\n"
        "  - split: train\n    path: wikitext-2-raw-v1/train-*\n---\n"
    )
    (tmp_path / "wikitext-2-raw-v1").mkdir()
    lines = [
        "",
        " = A place = \n",
        "",
        " It is a well @-@ known place in the north . \n",
        " = = History = = \n",
        " It was founded a very long time ago . \n",
    ]
    Dataset.from_dict({"text": lines}).to_parquet(
        tmp_path / "wikitext-2-raw-v1" / "train-00000-of-00001.parquet"
    )
    (document,) = wikitext2(str(tmp_path)).documents
    assert document.sentences == [
        "It is a well-known place in the north .",
        "It was founded a very long time ago .",
    ]
    with pytest.raises(ValueError, match="can not be loaded"):
        wikitext2(str(tmp_path / "nowhere"))


@pytest.mark.skipif(
    not (Path(os.environ.get("COURSE_DATA", "")) / "wikitext2" / "valid.txt").is_file(),
    reason="COURSE_DATA names no folder with wikitext2/valid.txt",
)
def test_the_real_wikitext_files_are_read():
    corpus = read_text_files([Path(os.environ["COURSE_DATA"]) / "wikitext2" / "valid.txt"])
    assert len(corpus.documents) > 60  # 60 articles, the long ones in parts
    assert 150_000 < corpus.words < 213_886


@pytest.mark.parametrize(
    "content, message",
    [(b"\xff\xfe", "is not UTF-8"), (b"", "holds no sentence"), (None, "can not be read")],
)
def test_a_text_file_that_can_not_be_used_is_named(tmp_path, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"text.txt {message}"):
        read_text_files([path])


def test_the_tokenizer_has_the_special_tokens_first_and_builds_pairs():
    sentences = ["The cat sat on the mat.", "The dog sat on the cat."] * 3
    tokenizer = train_tokenizer(sentences, vocab_size=60)
    assert [tokenizer.id_to_token(i) for i in range(5)] == list(SPECIAL_TOKENS)
    encoding = tokenizer.encode("The Cät", "sat")
    assert encoding.tokens == ["[CLS]", "the", "cat", "[SEP]", "sat", "[SEP]"]
    assert encoding.type_ids == [0, 0, 0, 0, 1, 1]
    assert tokenizer.encode("猫").tokens == ["[CLS]", "[UNK]", "[SEP]"]
    assert tokenizer.decode(encoding.ids) == "the cat sat"
    with pytest.raises(ValueError, match="no words"):
        train_tokenizer([], 60)


def test_words_are_counted_as_in_lesson_04():
    sentences = docs_corpus(progress=False).sentences()[::500]
    assert docs._count_words(sentences) == count_words(sentences)


def test_a_vocabulary_without_a_special_token_names_it(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\nword\n")
    with pytest.raises(ValueError, match=r"vocab.txt has no \[SEP\] and no \[MASK\]"):
        fast_tokenizer(tmp_path / "vocab.txt")
