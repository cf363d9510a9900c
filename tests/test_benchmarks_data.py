"""course_utils/data/benchmarks.py: the publishers' files, the Hub's layout, and damaged ones."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

import course_utils.data
from course_utils.data import benchmarks, load_clinc150, load_snli, load_wnut17, load_xquad
from course_utils.data.benchmarks import CLINC150_INTENTS, WNUT17_TAGS, clinc150_domains
from course_utils.metrics import answer_scores, entity_scores

REAL = os.environ.get("COURSE_DATA", "")
SPLITS = ["train", "validation", "test"]


def needs(file):
    return pytest.mark.skipif(
        not REAL or not (Path(REAL) / file).is_file(),
        reason=f"COURSE_DATA names no folder with {file}",
    )


# --- The real files ---------------------------------------------------------------------------


@needs("clinc150/data_oos_plus.json")
def test_clinc150_has_its_published_sizes_and_the_hubs_labels():
    loaded = load_clinc150()
    assert {split: len(rows) for split, rows in loaded.items()} == {
        "train": 15_250, "validation": 3_100, "test": 5_500
    }  # fmt: skip
    intent = loaded["test"].features["intent"]
    known = {20: "freeze_account", 42: "oos", 61: "translate", 108: "direct_deposit",
             122: "w2", 133: "transfer", 150: "change_volume"}  # fmt: skip
    assert {number: intent.names[number] for number in known} == known
    counts = Counter(loaded["test"]["intent"])
    assert counts.pop(42) == 1_000
    assert len(counts) == 150 and set(counts.values()) == {30}
    assert loaded["test"][0] == {"text": "how would you say fly in italian", "intent": 61}
    assert loaded["train"][-1]["intent"] == 42


@needs("clinc150/data_full.json")
def test_clinc150_full_has_fewer_out_of_scope_queries_to_train_on():
    loaded = load_clinc150("full")
    assert Counter(loaded["train"]["intent"])[42] == 100
    assert loaded["test"]["text"][:] == load_clinc150("plus")["test"]["text"][:]


@needs("clinc150/domains.json")
def test_each_domain_of_clinc150_has_15_intents():
    domains = clinc150_domains()
    assert list(domains) == CLINC150_INTENTS
    assert domains["freeze_account"] == "banking"
    counts = Counter(domains.values())
    assert counts.pop("oos") == 1
    assert len(counts) == 10 and set(counts.values()) == {15}


@needs("snli/dev.jsonl")
def test_snli_has_its_published_sizes_and_says_that_training_is_elsewhere():
    loaded = load_snli()
    assert len(loaded["validation"]) == 9_842 and len(loaded["test"]) == 9_824
    assert loaded["test"].features["label"].names == ["entailment", "neutral", "contradiction"]
    assert Counter(loaded["validation"]["label"]) == {0: 3_329, 1: 3_235, 2: 3_278}
    if not (Path(REAL) / "snli" / "train.jsonl").is_file():
        assert list(loaded) == ["validation", "test"]
        assert "Without the training split" in loaded["test"].info.description


@needs("snli/dev.jsonl")
def test_snli_can_train_on_dev_with_no_premise_in_both_parts():
    loaded, dev = load_snli(train_on_dev=True), load_snli()["validation"]
    assert list(loaded) == SPLITS
    assert len(loaded["train"]) + len(loaded["validation"]) == len(dev)
    assert 0.08 < len(loaded["validation"]) / len(dev) < 0.12
    assert not set(loaded["train"]["premise"]) & set(loaded["validation"]["premise"])
    assert "both parts of the publisher's dev" in loaded["train"].info.description


@needs("wnut17/wnut17train.conll")
def test_wnut17_has_its_published_sizes_and_entities():
    loaded = load_wnut17()
    assert [len(loaded[split]) for split in SPLITS] == [3_394, 1_009, 1_287]
    names = loaded["test"].features["ner_tags"].feature.names
    assert names == WNUT17_TAGS
    assert names[:3] == ["O", "B-corporation", "I-corporation"] and names[12] == "I-product"
    begins = Counter(names[tag] for tags in loaded["test"]["ner_tags"] for tag in tags)
    assert begins["B-person"] == 429 and begins["I-creative-work"] == 218
    row = loaded["train"][0]
    assert row["id"] == "0"
    assert row["tokens"][:3] == ["@paulwalk", "It", "'s"]
    assert [row["tokens"][i] for i, tag in enumerate(row["ner_tags"]) if names[tag] != "O"] == [
        "Empire", "State", "Building", "ESB"
    ]  # fmt: skip


@needs("wnut17/emerging.dev.conll")
def test_the_truth_scores_1_on_the_real_sentences_and_all_o_scores_0():
    rows = load_wnut17()["validation"]
    tags = [[WNUT17_TAGS[tag] for tag in sentence] for sentence in rows["ner_tags"]]
    scores = entity_scores(tags, tags)
    assert (scores["f1"], scores["entities"]) == (1, 34 + 105 + 39 + 74 + 470 + 114)
    assert scores["by_type"]["person"]["entities"] == 470
    assert entity_scores(tags, [["O"] * len(sentence) for sentence in tags])["f1"] == 0


@needs("xquad/xquad.en.json")
def test_xquad_is_split_by_article_and_each_answer_is_where_it_says():
    loaded = load_xquad()
    titles = [set(loaded[split]["title"]) for split in SPLITS]
    assert [len(found) for found in titles] == [30, 6, 12]
    assert len(set().union(*titles)) == 48
    assert sum(len(rows) for rows in loaded.values()) == 1_190
    assert {"Super_Bowl_50", "Warsaw"} <= titles[0] and "Martin_Luther" in titles[2]
    contexts = [set(loaded[split]["context"]) for split in SPLITS]
    assert sum(map(len, contexts)) == len(set().union(*contexts)) == 240
    for rows in loaded.values():
        for row in rows:
            (text,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
            assert row["context"][start : start + len(text)] == text


@needs("xquad/xquad.en.json")
def test_the_right_answers_of_xquad_score_1_and_silence_scores_0():
    right = [answers["text"] for answers in load_xquad()["validation"]["answers"]]
    scores = answer_scores([texts[0] for texts in right], right)
    assert scores["exact_match"] == scores["f1"] == 1
    assert answer_scores([""] * len(right), right)["f1"] == 0


@pytest.mark.parametrize(
    "load, file, license",
    [
        (load_clinc150, "clinc150/data_oos_plus.json", "CC BY 3.0"),
        (load_snli, "snli/dev.jsonl", "CC BY-SA 4.0"),
        (load_wnut17, "wnut17/wnut17train.conll", "CC BY 4.0"),
        (load_xquad, "xquad/xquad.en.json", "CC BY-SA 4.0"),
    ],
)
def test_each_says_its_licence_and_where_it_came_from(load, file, license):
    if not REAL or not (Path(REAL) / file).is_file():
        pytest.skip(f"COURSE_DATA names no folder with {file}")
    for split, rows in load().items():
        assert rows.info.license == license
        assert rows.info.homepage.startswith("https://")
        assert "Read from the publisher's files." in rows.info.description
        assert str(rows.split) == split


# --- The Hub's layout -------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """What `datasets` keeps of a folder stays out of the reader's own cache."""
    cache = tmp_path_factory.mktemp("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(cache))


def hub_folder(folder, config, splits):
    """A folder as on the Hub: README.md that names the Parquet files of each split."""
    files = "".join(f"  - split: {s}\n    path: {config}/{s}-*\n" for s in splits)
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n"
    )
    (folder / config).mkdir()
    for split, rows in splits.items():
        rows.to_parquet(folder / config / f"{split}-00000-of-00001.parquet")
    return str(folder)


def clinc_rows(intents, names=CLINC150_INTENTS):
    features = Features({"text": Value("string"), "intent": ClassLabel(names=names)})
    texts = [f"text {i}" for i in range(len(intents))]
    return Dataset.from_dict({"text": texts, "intent": intents}, features=features)


def test_clinc150_comes_from_a_folder_of_the_hubs_layout(tmp_path):
    splits = {split: clinc_rows(["translate", "oos"]) for split in SPLITS}
    loaded = load_clinc150(source=hub_folder(tmp_path, "plus", splits))
    assert list(loaded) == SPLITS
    assert loaded["test"]["intent"][:] == [61, 42]
    assert loaded["test"].features["intent"].names == CLINC150_INTENTS
    info = loaded["train"].info
    assert info.license == "CC BY 3.0"
    assert f"Read from the Hub ({tmp_path})." in info.description


def test_two_folders_of_one_name_are_not_taken_for_each_other(tmp_path):
    for parent, intent in [("one", "translate"), ("two", "oos")]:
        (tmp_path / parent).mkdir()
        folder = tmp_path / parent / "clinc"
        source = hub_folder(folder, "plus", dict.fromkeys(SPLITS, clinc_rows([intent])))
        assert load_clinc150(source=source)["test"]["intent"][:] == [CLINC150_INTENTS.index(intent)]


def test_labels_that_are_numbered_otherwise_on_the_hub_are_known_by_name(tmp_path):
    names = sorted(CLINC150_INTENTS)
    splits = {split: clinc_rows(["translate", "oos"], names) for split in SPLITS}
    loaded = load_clinc150(source=hub_folder(tmp_path, "plus", splits))
    assert loaded["test"]["intent"][:] == [61, 42]
    assert loaded["test"].column_names == ["text", "intent"]


def test_labels_that_are_text_on_the_hub_are_numbered_and_unknown_ones_named(tmp_path):
    rows = Dataset.from_dict({"text": ["a", "b"], "intent": ["oos", "translate"]})
    loaded = load_clinc150(source=hub_folder(tmp_path / "a", "plus", dict.fromkeys(SPLITS, rows)))
    assert loaded["test"]["intent"][:] == [42, 61]
    rows = Dataset.from_dict({"text": ["a", "b"], "intent": ["oos", "sing"]})
    folder = hub_folder(tmp_path / "b", "plus", dict.fromkeys(SPLITS, rows))
    with pytest.raises(ValueError, match="train, row 1: 'sing' is no label of intent"):
        load_clinc150(source=folder)
    rows = Dataset.from_dict({"text": ["a", "b"], "intent": [0, 151]})
    folder = hub_folder(tmp_path / "c", "plus", dict.fromkeys(SPLITS, rows))
    with pytest.raises(ValueError, match="train, row 1: 151 is no label of intent"):
        load_clinc150(source=folder)


def snli_rows(labels):
    names = ["entailment", "neutral", "contradiction"]
    text = Value("string")
    return Dataset.from_dict(
        {
            "premise": [f"premise {i // 3}" for i in range(len(labels))],
            "hypothesis": [f"hypothesis {i}" for i in range(len(labels))],
            "label": labels,
        },
        features=Features({"premise": text, "hypothesis": text, "label": ClassLabel(names=names)}),
    )


def test_snli_of_the_hub_loses_the_pairs_without_an_agreed_label(tmp_path):
    splits = {
        "test": snli_rows([0, -1, 2]),
        "validation": snli_rows([0, 1, 2] * 50),
        "train": snli_rows([-1, 1]),
    }
    source = hub_folder(tmp_path, "plain_text", splits)
    loaded = load_snli(source=source)
    assert list(loaded) == SPLITS
    assert loaded["test"]["label"][:] == [0, 2]
    assert loaded["test"]["hypothesis"][:] == ["hypothesis 0", "hypothesis 2"]
    assert loaded["train"]["label"][:] == [1]
    own = load_snli(train_on_dev=True, source=source)
    assert len(own["train"]) + len(own["validation"]) == 150
    assert not set(own["train"]["premise"]) & set(own["validation"]["premise"])


def wnut_rows(tags):
    features = Features(
        {
            "id": Value("string"),
            "tokens": List(Value("string")),
            "ner_tags": List(ClassLabel(names=WNUT17_TAGS)),
        }
    )
    return Dataset.from_dict(
        {"id": ["0"], "tokens": [["a", "b", "c"]], "ner_tags": [tags]}, features=features
    )


def test_wnut17_comes_from_a_folder_of_the_hubs_layout(tmp_path):
    rows = wnut_rows(["O", "B-person", "I-person"])
    source = hub_folder(tmp_path / "a", "default", dict.fromkeys(SPLITS, rows))
    loaded = load_wnut17(source)
    assert loaded["train"][0] == {"id": "0", "tokens": ["a", "b", "c"], "ner_tags": [0, 9, 10]}
    splits = dict.fromkeys(SPLITS, rows) | {"test": wnut_rows(["O", "B-person", "I-group"])}
    source = hub_folder(tmp_path / "b", "default", splits)
    with pytest.raises(ValueError, match="test, row 0: I-group after B-person continues no"):
        load_wnut17(source)
    splits["test"] = wnut_rows(["O", "B-person"])
    source = hub_folder(tmp_path / "c", "default", splits)
    with pytest.raises(ValueError, match="test, row 0: 3 tokens, but 2 tags"):
        load_wnut17(source)


def xquad_rows(articles=9, with_title=False, wrong=None):
    rows = []
    for number in range(articles * 5 * 2):  # two questions a paragraph, five paragraphs an article
        row = {
            "id": f"q{number}",
            "context": f"paragraph {number // 2} says so",
            "question": f"What does paragraph {number // 2} say?",
            "answers": {"text": ["says"], "answer_start": [10 + len(str(number // 2)) + 1]},
        }
        if with_title:
            row["title"] = f"T{number // 10}"
        rows.append(row)
    if wrong is not None:
        rows[wrong]["answers"]["answer_start"] = [0]
    return Dataset.from_list(rows)


def test_xquad_of_the_hub_is_split_by_article_though_it_has_no_titles(tmp_path):
    source = hub_folder(tmp_path / "a", "xquad.en", {"validation": xquad_rows()})
    loaded = load_xquad(source=source)
    assert [sorted(set(loaded[split]["title"])) for split in SPLITS] == [
        [f"article {i}" for i in (0, 1, 2, 3, 4, 8)], ["article 5"], ["article 6", "article 7"]
    ]  # fmt: skip
    assert loaded["validation"]["id"][:] == [f"q{i}" for i in range(50, 60)]
    assert "the Hub" in loaded["test"].info.description
    source = hub_folder(tmp_path / "b", "xquad.en", {"validation": xquad_rows(wrong=7)})
    with pytest.raises(ValueError, match="validation, row 7: the answer 'says' of question 'q7'"):
        load_xquad(source=source)


@needs("xquad/xquad.en.json")
def test_the_hubs_rows_give_the_same_split_as_the_publishers_file(tmp_path):
    ours = load_xquad()
    articles = json.loads((Path(REAL) / "xquad" / "xquad.en.json").read_text())["data"]
    rows = [
        {
            "id": qa["id"],
            "context": paragraph["context"],
            "question": qa["question"],
            "answers": {
                "text": [answer["text"] for answer in qa["answers"]],
                "answer_start": [answer["answer_start"] for answer in qa["answers"]],
            },
        }
        for article in articles
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    source = hub_folder(tmp_path, "xquad.en", {"validation": Dataset.from_list(rows)})
    theirs = load_xquad(source=source)
    assert all(theirs[split]["id"][:] == ours[split]["id"][:] for split in SPLITS)
    assert theirs["test"].features == ours["test"].features


def test_squad_keeps_its_own_splits(tmp_path):
    splits = {"train": xquad_rows(2, True), "validation": xquad_rows(1, True)}
    loaded = load_xquad("squad", source=hub_folder(tmp_path, "plain_text", splits))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 20, "validation": 10}
    assert loaded["train"][10]["title"] == "T1"


@pytest.mark.parametrize(
    "load, wanted",
    [
        (load_clinc150, "clinc150/data_oos_plus.json"),
        (load_snli, "snli/dev.jsonl and test.jsonl"),
        (load_wnut17, "wnut17/wnut17train.conll, emerging.dev.conll, emerging.test.annotated"),
        (load_xquad, "xquad/xquad.en.json"),
        (lambda: load_xquad("squad"), "squad/train-v1.1.json and dev-v1.1.json"),
        (lambda: load_clinc150("full"), "clinc150/data_full.json"),
        (clinc150_domains, "clinc150/domains.json"),
    ],
)
def test_without_files_and_hub_one_line_says_what_to_do(load, wanted, tmp_path, monkeypatch):
    def no_hub(*arguments):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(benchmarks, "load_dataset", no_hub)
    for value in ("", str(tmp_path)):
        monkeypatch.setenv("COURSE_DATA", value)
        with pytest.raises(ValueError) as error:
            load()
        assert f"set COURSE_DATA to a folder that holds {wanted}" in str(error.value).replace(
            "the folder", "a folder"
        )
        assert "\n" not in str(error.value)


def test_the_hub_is_asked_for_by_the_published_names(monkeypatch):
    asked = []

    def hub(*arguments):
        asked.append(arguments)
        raise ConnectionError("no network")

    monkeypatch.setattr(benchmarks, "load_dataset", hub)
    monkeypatch.delenv("COURSE_DATA", raising=False)
    for load in (load_clinc150, load_snli, load_wnut17, load_xquad, lambda: load_xquad("squad")):
        with pytest.raises(ValueError, match="no network"):
            load()
    assert asked == [
        ("clinc/clinc_oos", "plus"),
        ("stanfordnlp/snli", None),
        ("flaitenberger/wnut_17", None),
        ("google/xquad", "xquad.en"),
        ("rajpurkar/squad", None),
    ]


# --- Damaged files ----------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Writes files below a COURSE_DATA of its own."""
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


def clinc_json(**changes):
    keys = ["train", "val", "test", "oos_train", "oos_val", "oos_test"]
    rows = {key: [[f"{key} query", "oos" if "oos" in key else "no"]] for key in keys}
    return json.dumps(rows | changes, indent=1)  # "train" on line 2, each row 4 lines, see below


def test_a_small_clinc150_file_is_read(data):
    data(clinc150__data_oos_plus_dot_json=clinc_json())
    assert load_clinc150()["train"]["text"][:] == ["train query", "oos_train query"]


@pytest.mark.parametrize(
    "content, message",
    [
        (clinc_json(train=[["hello", "greeting"], ["bye", "gooodbye"]]), "line 9: 'gooodbye' is"),
        (clinc_json(train=[["hello", "greeting"], ["bye"]]), "line 8: row 1 of 'train' is not"),
        (clinc_json(train=[["hello", "greeting"], ["é", 3]]), "line 8: row 1 of 'train' is not"),
        (clinc_json(train=[["no", " "], [" ", "no"]]), "line 5: ' ' is none of"),
        (clinc_json(train=[[" ", "no"]]), "line 4: row 0 of 'train' has no text"),
        (clinc_json(train=["hello"]), "line 3: row 0 of 'train' is not"),
        (clinc_json(oos_test={}), "line 1: no list under the key 'oos_test'"),
        ("[]", "line 1: no list under the key 'train'"),
        ('{"train": [\n["hello", "no"],\n]}', "line 3: broken JSON"),
        (b'{"train":\n"\xff"}', "line 2: not UTF-8"),
    ],
)
def test_a_damaged_clinc150_file_is_named_with_its_line(data, content, message):
    data(clinc150__data_oos_plus_dot_json=content)
    with pytest.raises(ValueError, match=f"clinc150/data_oos_plus.json, {message}"):
        load_clinc150()


def test_an_intent_of_no_domain_and_an_unknown_one_are_named(data):
    data(clinc150__domains_dot_json='{"banking":\n["no",\n"sing"]}')
    with pytest.raises(ValueError, match="domains.json, line 3: 'sing' is no intent"):
        clinc150_domains()
    data(clinc150__domains_dot_json='{"banking": ["no"]}')
    with pytest.raises(ValueError, match="no domain for restaurant_reviews, nutrition_info"):
        clinc150_domains()


def test_an_unknown_config_is_refused():
    with pytest.raises(ValueError, match="'large' is no config; take one of plus, full, small"):
        load_clinc150("large")
    with pytest.raises(ValueError, match="'xquad.de' is no config; take one of xquad.en, squad"):
        load_xquad("xquad.de")


PAIR = '{"premise": "A man sleeps .", "hypothesis": "He rests .", "label": "entailment"}\n'


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"premise": "a", ', "line 2: broken JSON"),
        ('["a", "b", "neutral"]', "line 2: not a JSON object"),
        ('{"premise": "a", "label": "neutral"}', "line 2: no text under 'hypothesis'"),
        ('{"premise": "", "hypothesis": "b", "label": "neutral"}', "line 2: no text under 'premi"),
        ('{"premise": "a", "hypothesis": "b", "label": "maybe"}', "line 2: 'maybe' is no label"),
        ('{"premise": "a", "hypothesis": "b", "label": 1}', "line 2: 1 is no label"),
    ],
)
def test_a_damaged_snli_file_is_named_with_its_line(data, line, message):
    data(snli__dev_dot_jsonl=PAIR, snli__test_dot_jsonl=PAIR + line)
    with pytest.raises(ValueError, match=f"snli/test.jsonl, {message}"):
        load_snli()


def test_snli_takes_a_training_file_where_there_is_one(data):
    undecided = PAIR.replace("entailment", "-")
    data(snli__dev_dot_jsonl=PAIR, snli__test_dot_jsonl=PAIR, snli__train_dot_jsonl=PAIR * 3)
    loaded = load_snli()
    assert list(loaded) == SPLITS and len(loaded["train"]) == 3
    assert "Without" not in loaded["train"].info.description
    data(snli__test_dot_jsonl=undecided + PAIR)
    assert len(load_snli()["test"]) == 1


def wnut(data, test):
    data(
        wnut17__wnut17train_dot_conll="a\tO\r\n\t\nb\tB-person\r\n\r\n\r\nc\u2028\tO",
        wnut17__emerging_dot_dev_dot_conll="a\tO\n",
        wnut17__emerging_dot_test_dot_annotated=test,
    )
    return load_wnut17()


def test_sentences_are_cut_at_empty_lines_of_any_kind(data):
    train = wnut(data, "a\tO\n")["train"]
    assert train["id"][:] == ["0", "1", "2"]
    assert train["tokens"][:] == [["a"], ["b"], ["c\u2028"]]
    assert train["ner_tags"][:] == [[0], [9], [0]]


@pytest.mark.parametrize(
    "line, message",
    [
        ("word O", "line 3: not a token, a tab and a tag: 'word O'"),
        ("word\tO\tO", "line 3: not a token, a tab and a tag"),
        ("\tO", "line 3: not a token, a tab and a tag"),
        ("word\tB-persons", "line 3: 'B-persons' is no tag; take one of O, B-corporation"),
        ("word\tI-person", "line 3: I-person after O continues no entity"),
        ("word\tB-group\nword\tI-person", "line 4: I-person after B-group continues no entity"),
    ],
)
def test_a_damaged_conll_file_is_named_with_its_line(data, line, message):
    with pytest.raises(ValueError, match=f"wnut17/emerging.test.annotated, {message}"):
        wnut(data, f"a\tB-person\n\n{line}\n")


def test_an_entity_does_not_go_on_in_the_next_sentence(data):
    with pytest.raises(ValueError, match="line 3: I-person after O"):
        wnut(data, "a\tB-person\n\nb\tI-person\n")


def test_a_part_of_the_files_is_not_taken_for_the_whole(data):
    data(wnut17__wnut17train_dot_conll="a\tO\n")
    with pytest.raises(ValueError, match="emerging.dev.conll is missing: COURSE_DATA has only a"):
        load_wnut17()


def squad_json(*answers, **changes):
    questions = [
        {"id": f"q{i}", "question": "Who?", "answers": [{"text": text, "answer_start": start}]}
        for i, (text, start) in enumerate(answers)
    ]
    questions[-1].update(changes)
    paragraph = {"context": "Ada wrote it.", "qas": questions}
    article = {"title": "Ada", "paragraphs": [paragraph]}
    lines = json.dumps({"version": "1.1", "data": [article]})
    return lines.replace('{"id"', '\n{"id"')  # question i stands on line i + 2


@pytest.mark.parametrize(
    "content, message",
    [
        (squad_json(("Ada", 0), ("it", 9)), "line 3: the answer 'it' of question 'q1' does not"),
        (squad_json(("Ada", 0), ("Bob", 0)), "line 3: the answer 'Bob' of question 'q1' does not"),
        (squad_json(("Ada", 0), ("it.", -3)), "line 3: the answer 'it.' of question 'q1' does not"),
        (squad_json(("Ada", 0), ("", 0)), "line 3: question 'q1': an answer is a text and a start"),
        (squad_json(("Ada", "0")), "line 2: question 'q0': an answer is a text and a start"),
        (squad_json(("Ada", 0), answers=[]), "line 2: question 'q0' has no answer"),
        (squad_json(("Ada", 0), ("it", 10), id="q0"), "line 2: the id 'q0' occurs twice"),
        (squad_json(("Ada", 0), ("it", 10), answers=3), "line 3: at or after this line, not SQuAD"),
        ("[1]", "line 1: at or after this line, not SQuAD"),
        ('{"data": []\n"version"', "line 2: broken JSON"),
    ],
)
def test_a_damaged_squad_file_is_named_with_its_line(data, content, message):
    data(xquad__xquad_dot_en_dot_json=content)
    with pytest.raises(ValueError, match=f"xquad/xquad.en.json, {message}"):
        load_xquad()


def test_squad_is_read_from_its_publishers_files_too(data):
    content = squad_json(("Ada", 0), ("it", 10))
    files = {f"squad__{name}-v1_dot_1_dot_json": content for name in ("train", "dev")}
    data(**files)
    loaded = load_xquad("squad")
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 2, "validation": 2}
    assert loaded["train"][1]["answers"] == {"text": ["it"], "answer_start": [10]}


# --- The package's front ----------------------------------------------------------------------


def test_the_loaders_are_to_be_had_from_the_package_without_importing_it_all():
    assert course_utils.data.load_snli is load_snli
    assert {"load_assistant", "load_docs_pairs", "load_xquad"} <= set(dir(course_utils.data))
    with pytest.raises(AttributeError, match="no attribute 'load_nothing'"):
        course_utils.data.load_nothing  # noqa: B018
    code = "import sys, course_utils.data; sys.exit('datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
