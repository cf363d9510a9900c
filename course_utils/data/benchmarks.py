"""Published benchmarks in one shape, for the lessons' full scale: CLINC150, SNLI, WNUT-17, XQuAD.

Nothing of them is kept in the repository. A loader reads the publisher's own files from the folder
that the environment variable COURSE_DATA names, and where they are not there, Parquet from the Hub:

    clinc150/  data_oos_plus.json, data_full.json, domains.json                   clinc/oos-eval
    snli/      dev.jsonl, test.jsonl, train.jsonl (may be missing): one object a line with
               premise, hypothesis, label
    wnut17/    wnut17train.conll, emerging.dev.conll, emerging.test.annotated
                                                                leondz/emerging_entities_17
    xquad/     xquad.en.json                                               google-deepmind/xquad
    squad/     train-v1.1.json, dev-v1.1.json, for load_xquad("squad")

Both ways give a `datasets.DatasetDict` with the same features, labels in the Hub's order, a
description of where it came from, and a licence. `source` names another data set on the Hub, or a
folder of that layout, and is then the only place that is looked at.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    DatasetInfo,
    Features,
    List,
    Value,
    load_dataset,
)

CLINC150_INTENTS = """
    restaurant_reviews nutrition_info account_blocked oil_change_how time weather redeem_rewards
    interest_rate gas_type accept_reservations smart_home user_name report_lost_card repeat
    whisper_mode what_are_your_hobbies order jump_start schedule_meeting meeting_schedule
    freeze_account what_song meaning_of_life restaurant_reservation traffic make_call text
    bill_balance improve_credit_score change_language no measurement_conversion timer flip_coin
    do_you_have_pets balance tell_joke last_maintenance exchange_rate uber car_rental credit_limit
    oos shopping_list expiration_date routing meal_suggestion tire_change todo_list card_declined
    rewards_balance change_accent vaccines reminder_update food_last change_ai_name bill_due
    who_do_you_work_for share_location international_visa calendar translate carry_on book_flight
    insurance_change todo_list_update timezone cancel_reservation transactions credit_score
    report_fraud spending_history directions spelling insurance what_is_your_name reminder
    where_are_you_from distance payday flight_status find_phone greeting alarm order_status
    confirm_reservation cook_time damaged_card reset_settings pin_change
    replacement_card_duration new_card roll_dice income taxes date who_made_you pto_request
    tire_pressure how_old_are_you rollover_401k pto_request_status how_busy application_status
    recipe calendar_update play_music yes direct_deposit credit_limit_change gas pay_bill
    ingredients_list lost_luggage goodbye what_can_i_ask_you book_hotel are_you_a_bot next_song
    change_speed plug_type maybe w2 oil_change_when thank_you shopping_list_update pto_balance
    order_checks travel_alert fun_fact sync_device schedule_maintenance apr transfer
    ingredient_substitution calories current_location international_fees calculator definition
    next_holiday update_playlist mpg min_payment change_user_name restaurant_suggestion
    travel_notification cancel pto_used travel_suggestion change_volume
""".split()  # in the Hub's order; "oos", out of scope, is 42
CLINC150_OUT_OF_SCOPE = "oos"
CLINC150_CONFIGS = ("plus", "full", "small", "imbalanced")
SNLI_LABELS = ["entailment", "neutral", "contradiction"]
WNUT17_TYPES = ["corporation", "creative-work", "group", "location", "person", "product"]
WNUT17_TAGS = ["O", *(f"{prefix}-{kind}" for kind in WNUT17_TYPES for prefix in "BI")]


class _Benchmark(NamedTuple):
    """What is known of a data set before it is read."""

    title: str
    hub: str | None  # its name there
    config: str | None
    license: str
    homepage: str
    description: str
    features: Features

    def info(self, origin: str) -> DatasetInfo:
        return DatasetInfo(
            description=f"{self.description} Read from {origin}.",
            license=self.license,
            homepage=self.homepage,
            features=self.features,
        )


# --- The loaders ------------------------------------------------------------------------------


def load_clinc150(config: str = "plus", source: str | None = None) -> DatasetDict:
    """Intent detection with queries that no intent covers: DatasetDict(train, validation, test).

    text    str
    intent  ClassLabel of 151 names, the 150 intents and "oos" (42)

    config  "plus": 250 out-of-scope queries in training, 15,250 / 3,100 / 5,500 in all.
            "full": 100 of them (the publisher's main file; not on the Hub).
            "small", "imbalanced": fewer in-scope ones.
    In each split the queries in scope come first. `clinc150_domains()` says intent → domain.

    Larson et al. 2019, "An Evaluation Dataset for Intent Classification and Out-of-Scope
    Prediction". CC BY 3.0. Raises ValueError with file and line for a wrong label, a row that is
    not [text, label] or broken JSON, and where the data is not to be had.
    """
    if config not in CLINC150_CONFIGS:
        raise ValueError(f"{config!r} is no config; take one of {', '.join(CLINC150_CONFIGS)}.")
    intent = ClassLabel(names=CLINC150_INTENTS)
    benchmark = _Benchmark(
        title=f"CLINC150 ({config})",
        hub=None if config == "full" else "clinc/clinc_oos",
        config=config,
        license="CC BY 3.0",
        homepage="https://github.com/clinc/oos-eval",
        description=f"CLINC150, {config!r}: 150 intents of 10 domains and out-of-scope queries.",
        features=Features({"text": Value("string"), "intent": intent}),
    )
    file = "data_oos_plus.json" if config == "plus" else f"data_{config}.json"
    paths = _publishers_files("clinc150", file) if source is None else None
    if paths is None:
        return _from_hub(benchmark, source, f"clinc150/{file}", ("train", "validation", "test"))
    keys = {"train": "train", "validation": "val", "test": "test"}
    raw, content = _read_json(paths[0])
    splits = {
        split: [
            row for part in (key, f"oos_{key}") for row in _clinc150(paths[0], raw, content, part)
        ]
        for split, key in keys.items()
    }
    return _from_rows(benchmark, splits)


def clinc150_domains() -> dict[str, str]:
    """intent → its domain ("banking", …; "oos" → "oos"), in the order of the labels.

    Out of the publisher's domains.json: the Hub does not carry it. Raises ValueError without it.
    """
    paths = _publishers_files("clinc150", "domains.json")
    if paths is None:
        raise ValueError(
            "CLINC150's domains are not on the Hub: set COURSE_DATA to the folder that holds "
            "clinc150/domains.json."
        )
    raw, content = _read_json(paths[0])
    found = {CLINC150_OUT_OF_SCOPE: CLINC150_OUT_OF_SCOPE}
    for domain, intents in content.items():
        for intent in intents:
            if intent not in CLINC150_INTENTS:
                raise _at(paths[0], _line_of(raw, intent), f"{intent!r} is no intent of CLINC150.")
            found[intent] = domain
    missing = [name for name in CLINC150_INTENTS if name not in found]
    if missing:
        raise _at(paths[0], 1, f"no domain for {', '.join(missing[:3])}.")
    return {name: found[name] for name in CLINC150_INTENTS}


def load_snli(train_on_dev: bool = False, source: str | None = None) -> DatasetDict:
    """Does the premise entail the hypothesis? DatasetDict(train, validation, test).

    premise, hypothesis  str
    label                ClassLabel: entailment, neutral, contradiction

    Training has 549,367 pairs and comes from the Hub; a COURSE_DATA without snli/train.jsonl gives
    *validation and test only* (9,842 / 9,824). Pairs on whose label the annotators did not agree
    (-1, "-") are left out, as is usual.

    train_on_dev  makes "train" of nine tenths of the development pairs and "validation" of the
        others, with no premise in both; the publisher's training split is left aside. Report on
        test, and say that it was trained on dev.

    Bowman et al. 2015, "A large annotated corpus for learning natural language inference".
    CC BY-SA 4.0. Raises ValueError with file and line for a wrong label, a missing text or broken
    JSON, and where the data is not to be had.
    """
    text = Value("string")
    features = {"premise": text, "hypothesis": text, "label": ClassLabel(names=SNLI_LABELS)}
    benchmark = _Benchmark(
        title="SNLI",
        hub="stanfordnlp/snli",
        config=None,
        license="CC BY-SA 4.0",
        homepage="https://nlp.stanford.edu/projects/snli",
        description="SNLI: pairs of an image caption and a sentence somebody wrote about it.",
        features=Features(features),
    )
    optional = _publishers_files("snli", "train.jsonl") if source is None else None
    paths = _publishers_files("snli", "dev.jsonl", "test.jsonl") if source is None else None
    if paths is None:
        wanted = ("train", "validation", "test")
        loaded = _from_hub(benchmark, source, "snli/dev.jsonl and test.jsonl", wanted)
    else:
        files = dict(zip(["validation", "test", "train"], [*paths, *(optional or [])]))
        if not optional:
            benchmark = benchmark._replace(
                description=f"{benchmark.description} Without the training split, which is not in "
                "COURSE_DATA: load_snli(train_on_dev=True) trains on a part of dev."
            )
        order = [split for split in ("train", "validation", "test") if split in files]
        loaded = _from_rows(benchmark, {split: list(_snli(files[split])) for split in order})
    if not train_on_dev:
        return loaded
    dev = loaded["validation"]
    # "a dog ." and "a dog." are one premise: the Hub's and other files' white space differs
    held_out = [zlib.crc32("".join(p.split()).encode()) % 10 == 0 for p in dev["premise"]]
    parts = DatasetDict(
        train=dev.select([row for row, out in enumerate(held_out) if not out]),
        validation=dev.select([row for row, out in enumerate(held_out) if out]),
        test=loaded["test"],
    )
    note = "Here train and validation are both parts of the publisher's dev."
    _describe(parts, benchmark, f"{dev.info.description} {note}")
    return parts


def load_wnut17(source: str | None = None) -> DatasetDict:
    """Rare names in tweets, comments and titles: DatasetDict(train, validation, test).

    id        str, the sentence's number in its file, from 0
    tokens    list of str
    ner_tags  list of ClassLabel, BIO of 6 types in 13 names: O, B-corporation, I-corporation, …

    3,394 / 1,009 / 1,287 sentences.

    Derczynski et al. 2017, "Results of the WNUT2017 Shared Task on Novel and Emerging Entity
    Recognition". CC BY 4.0. Raises ValueError with file and line for a line that is not
    token <tab> tag, an unknown tag, an I- that continues no entity of its type, and where the data
    is not to be had.
    """
    benchmark = _Benchmark(
        title="WNUT-17",
        hub="flaitenberger/wnut_17",
        config=None,
        license="CC BY 4.0",
        homepage="https://github.com/leondz/emerging_entities_17",
        description="WNUT-17: emerging and rare entities in noisy text, BIO, 6 types.",
        features=Features(
            {
                "id": Value("string"),
                "tokens": List(Value("string")),
                "ner_tags": List(ClassLabel(names=WNUT17_TAGS)),
            }
        ),
    )
    names = ("wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated")
    splits = ("train", "validation", "test")
    paths = _publishers_files("wnut17", *names) if source is None else None
    if paths is None:
        loaded = _from_hub(benchmark, source, f"wnut17/{', '.join(names)}", splits)
        _check_rows(loaded, source or benchmark.hub, _wrong_bio)
        return loaded
    return _from_rows(benchmark, {split: list(_conll(path)) for split, path in zip(splits, paths)})


def load_xquad(config: str = "xquad.en", source: str | None = None) -> DatasetDict:
    """Questions whose answer is a span of a paragraph, in SQuAD's features.

    id, title, context, question  str
    answers                       {"text": [str, …], "answer_start": [int, …]}, characters;
                                  context[start : start + len(text)] == text is checked

    config  "xquad.en": DatasetDict(train, validation, test). XQuAD is 48 articles of SQuAD 1.1's
            development set in one file, so it is split here, by article: of 8 articles in the
            file's order the first 5 train, the 6th is validation, the last 2 test: 30 / 6 / 12
            articles. The Hub has no titles: they are "article 0" … there, the split is the same.
            "squad": DatasetDict(train, validation), the 87,599 and 10,570 questions of SQuAD 1.1,
            from the Hub or COURSE_DATA/squad. XQuAD's questions are in its validation split.

    Artetxe et al. 2020, "On the Cross-lingual Transferability of Monolingual Representations";
    Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text".
    CC BY-SA 4.0. Raises ValueError with file and line for an answer that is not in its context,
    a question without one, an id that occurs twice or broken JSON, and where the data is not to be
    had.
    """
    if config not in ("xquad.en", "squad"):
        raise ValueError(f"{config!r} is no config; take one of xquad.en, squad.")
    text = Value("string")
    features = {"id": text, "title": text, "context": text, "question": text}
    features["answers"] = {"text": List(text), "answer_start": List(Value("int32"))}
    common = dict(license="CC BY-SA 4.0", features=Features(features))
    if config == "squad":
        benchmark = _Benchmark(
            title="SQuAD 1.1",
            hub="rajpurkar/squad",
            config=None,
            homepage="https://rajpurkar.github.io/SQuAD-explorer",
            description="SQuAD 1.1: questions on paragraphs of Wikipedia, answered by a span.",
            **common,
        )
        files, splits = ("train-v1.1.json", "dev-v1.1.json"), ("train", "validation")
    else:
        benchmark = _Benchmark(
            title="XQuAD",
            hub="google/xquad",
            config="xquad.en",
            homepage="https://github.com/google-deepmind/xquad",
            description="XQuAD, English: 48 articles of SQuAD 1.1, split by article for a course.",
            **common,
        )
        files, splits = ("xquad.en.json",), ("validation",)
    folder = config.split(".")[0]
    paths = _publishers_files(folder, *files) if source is None else None
    if paths is not None:
        found = {split: list(_squad(path)) for split, path in zip(splits, paths)}
        return _from_rows(benchmark, found if config == "squad" else _by_article(found))
    loaded = _from_hub(benchmark, source, f"{folder}/{' and '.join(files)}", splits)
    _check_rows(loaded, source or benchmark.hub, _wrong_answers)
    if config == "squad":
        return loaded
    rows = _number_articles(loaded["validation"])
    return _from_rows(
        benchmark, _by_article({"validation": rows}), f"the Hub ({source or benchmark.hub})"
    )


# --- The publishers' formats ------------------------------------------------------------------


def _clinc150(path: Path, raw: str, content: Any, key: str) -> Iterator[dict]:
    """The rows of one list of CLINC150's file, [[text, label], …]."""
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise _at(path, 1, f"no list under the key {key!r}.")
    known = set(CLINC150_INTENTS)
    for number, row in enumerate(content[key]):
        if not isinstance(row, list) or [type(part) for part in row] != [str, str]:
            parts = row if isinstance(row, list) else [row]
            where = _line_of(raw, *parts[:1], key=key)
            raise _at(path, where, f"row {number} of {key!r} is not [text, label]: {row!r:.80}.")
        text, label = row
        if label not in known:
            where = _line_of(raw, text, label, key=key)
            raise _at(path, where, f"{label!r} is none of CLINC150's 150 intents, nor oos.")
        if not text.strip():
            raise _at(path, _line_of(raw, text, key=key), f"row {number} of {key!r} has no text.")
        yield {"text": text, "intent": label}


def _snli(path: Path) -> Iterator[dict]:
    """The rows of a file with one JSON object a line, without those that have no agreed label."""
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise _at(path, number, f"broken JSON: {error.msg}, column {error.colno}.") from None
        if not isinstance(row, dict):
            raise _at(path, number, "not a JSON object with premise, hypothesis and label.")
        for column in ("premise", "hypothesis"):
            if not isinstance(row.get(column), str) or not row[column].strip():
                raise _at(path, number, f"no text under {column!r}.")
        if row.get("label") == "-":  # how SNLI writes that the annotators did not agree
            continue
        if row.get("label") not in SNLI_LABELS:
            raise _at(
                path, number, f"{row.get('label')!r} is no label; take {', '.join(SNLI_LABELS)}."
            )
        yield {
            "premise": row["premise"].strip(),
            "hypothesis": row["hypothesis"].strip(),
            "label": row["label"],
        }


def _conll(path: Path) -> Iterator[dict]:
    """The sentences of a file with token <tab> tag a line, an empty line between sentences."""
    sentence, numbers, count = {"tokens": [], "ner_tags": []}, [], 0
    for number, line in [*_lines(path), (0, "")]:
        if not line.strip():  # one of the files has a lone tab between sentences
            if numbers:
                yield {"id": str(count), **sentence}
                sentence, numbers, count = {"tokens": [], "ner_tags": []}, [], count + 1
            continue
        parts = line.split("\t")
        if len(parts) != 2 or not parts[0].strip():
            raise _at(path, number, f"not a token, a tab and a tag: {line!r:.80}.")
        if parts[1] not in WNUT17_TAGS:
            raise _at(
                path, number, f"{parts[1]!r} is no tag; take one of {', '.join(WNUT17_TAGS)}."
            )
        before = sentence["ner_tags"][-1] if numbers else "O"
        if _continues_nothing(before, parts[1]):
            raise _at(path, number, f"{parts[1]} after {before} continues no entity.")
        sentence["tokens"].append(parts[0])
        sentence["ner_tags"].append(parts[1])
        numbers.append(number)


def _continues_nothing(before: str, tag: str) -> bool:
    """In BIO an I-x follows B-x or I-x only."""
    return tag.startswith("I-") and before[2:] != tag[2:]


def _squad(path: Path) -> Iterator[dict]:
    """The questions of a file in SQuAD 1.1's format, in its order."""
    raw, content = _read_json(path)
    seen: set[str] = set()
    question = {}
    try:
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = question["answers"]
                    row = {
                        "id": question["id"],
                        "title": article["title"],
                        "context": paragraph["context"],
                        "question": question["question"],
                        "answers": {
                            "text": [answer["text"] for answer in answers],
                            "answer_start": [answer["answer_start"] for answer in answers],
                        },
                    }
                    problem = _wrong_answers(row)
                    if row["id"] in seen:
                        problem = f"the id {row['id']!r} occurs twice."
                    if problem:
                        raise _at(path, _line_of(raw, row["id"]), problem)
                    seen.add(row["id"])
                    yield row
    except (KeyError, TypeError) as error:
        line = _line_of(raw, question["id"]) if isinstance(question, dict) and question else 1
        raise _at(path, line, f"at or after this line, not SQuAD's format: {error}.") from None


# --- Checks that files and Hub share ----------------------------------------------------------


def _wrong_answers(row: dict) -> str | None:
    """What is wrong with a question's answers; None if nothing is."""
    starts, texts, context = row["answers"]["answer_start"], row["answers"]["text"], row["context"]
    if not texts or len(texts) != len(starts):
        return f"question {row['id']!r} has no answer with text and start."
    for start, text in zip(starts, texts):
        if type(start) is not int or not isinstance(text, str) or not text:
            return f"question {row['id']!r}: an answer is a text and a start."
        if start < 0 or context[start : start + len(text)] != text:
            return (
                f"the answer {text!r:.60} of question {row['id']!r} does not stand at character "
                f"{start} of its context."
            )
    return None


def _wrong_bio(row: dict) -> str | None:
    """What is wrong with a sentence's tags (numbers); None if nothing is."""
    if len(row["tokens"]) != len(row["ner_tags"]):
        return f"{len(row['tokens'])} tokens, but {len(row['ner_tags'])} tags."
    tags = ["O", *(WNUT17_TAGS[number] for number in row["ner_tags"])]
    for before, tag in zip(tags, tags[1:]):
        if _continues_nothing(before, tag):
            return f"{tag} after {before} continues no entity."
    return None


def _check_rows(loaded: DatasetDict, name: str, wrong: Callable[[dict], str | None]) -> None:
    """ValueError with data set, split and row (from 0) for the first row that is wrong."""
    for split, rows in loaded.items():
        for place, row in enumerate(rows):
            if problem := wrong(row):
                raise ValueError(f"{name}, {split}, row {place}: {problem}")


# --- XQuAD's articles -------------------------------------------------------------------------


def _by_article(found: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """One list of questions, article after article → train, validation, test: 5, 1, 2 of 8."""
    splits = {"train": [], "validation": [], "test": []}
    places: dict[str, int] = {}
    for row in found["validation"]:
        place = places.setdefault(row["title"], len(places)) % 8
        name = "train" if place < 5 else "validation" if place == 5 else "test"
        splits[name].append(row)
    return splits


def _number_articles(rows: Iterable[dict]) -> list[dict]:
    """XQuAD's rows with titles "article 0", …: each article is 5 paragraphs, one behind another."""
    paragraphs: dict[str, int] = {}
    return [
        {
            **row,
            "title": f"article {paragraphs.setdefault(row['context'], len(paragraphs)) // 5}",
        }
        for row in rows
    ]


# --- Files, the Hub, and what both give -------------------------------------------------------


def _publishers_files(folder: str, *names: str) -> list[Path] | None:
    """The files in COURSE_DATA/folder; None if none is there. A part of them is a ValueError."""
    root = os.environ.get("COURSE_DATA", "").strip()
    paths = [Path(root).expanduser() / folder / name for name in names] if root else []
    missing = [path for path in paths if not path.is_file()]
    if len(missing) == len(paths):
        return None
    if missing:
        raise ValueError(
            f"{missing[0]} is missing: COURSE_DATA has only a part of {folder}; it needs "
            f"{', '.join(names)}."
        )
    return paths


def _from_rows(
    benchmark: _Benchmark, splits: dict[str, list[dict]], origin: str = "the publisher's files"
) -> DatasetDict:
    columns = {
        split: {column: [row[column] for row in rows] for column in benchmark.features}
        for split, rows in splits.items()
    }
    return DatasetDict(
        {
            split: Dataset.from_dict(
                values, features=benchmark.features, info=benchmark.info(origin), split=split
            )
            for split, values in columns.items()
        }
    )


def _from_hub(
    benchmark: _Benchmark, source: str | None, files: str, splits: Sequence[str]
) -> DatasetDict:
    """The data set by its name on the Hub, with our features; or one line on what to do."""
    name = source or benchmark.hub
    advice = f"set COURSE_DATA to a folder that holds {files}"
    if name is None:
        raise ValueError(f"{benchmark.title} is not on the Hub: {advice}.")
    # datasets' cache tells folders apart by their last name only: read a folder anew each time
    options = {"download_mode": "force_redownload"} if Path(name).is_dir() else {}
    try:
        loaded = load_dataset(name, benchmark.config, **options)
    except Exception as error:  # no network, no such data set, a broken file, …
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{benchmark.title} can not be loaded from {name} ({type(error).__name__}: {reason}): "
            f"{advice}, or load it once where the Hub answers."
        ) from None
    missing = [split for split in splits if split not in loaded]
    if missing:
        raise ValueError(f"{name} has no split {missing[0]!r}: {advice}.")
    found = {
        split: _with_features(loaded[split], benchmark, f"{name}, {split}") for split in splits
    }
    result = DatasetDict(found)
    _describe(result, benchmark, benchmark.info(f"the Hub ({name})").description)
    return result


def _with_features(rows: Dataset, benchmark: _Benchmark, where: str) -> Dataset:
    """The columns and label numbers that the course uses, whatever the numbers there."""
    wanted = benchmark.features
    if "title" in wanted and "title" not in rows.column_names:  # XQuAD on the Hub
        rows = rows.add_column("title", [""] * len(rows))
    absent = [column for column in wanted if column not in rows.column_names]
    if absent:
        raise ValueError(
            f"{where} has no column {absent[0]!r}, but {', '.join(rows.column_names)}."
        )
    rows = rows.select_columns(list(wanted))
    if benchmark.title == "SNLI":  # -1: the annotators did not agree
        agreed = [place for place, label in enumerate(rows["label"][:]) if label not in (-1, "-")]
        rows = rows.select(agreed) if len(agreed) < len(rows) else rows
    for column, feature in wanted.items():
        if isinstance(getattr(feature, "feature", feature), ClassLabel):
            rows = _renumber(rows, column, feature, where)
    return rows.select_columns(list(wanted)).cast(wanted)


def _renumber(rows: Dataset, column: str, feature: ClassLabel | List, where: str) -> Dataset:
    """A column of labels, numbered as `feature` numbers them; they are known by their names."""
    is_list = isinstance(feature, List)
    ours = feature.feature if is_list else feature
    theirs = getattr(rows.features[column], "feature", rows.features[column])
    names = theirs.names if isinstance(theirs, ClassLabel) else ours.names
    values = rows[column][:]
    number: dict[Any, int] = {}
    for place, value in enumerate(values):
        for label in value if is_list else [value]:
            if label in number:
                continue
            is_number = isinstance(label, int) and 0 <= label < len(names)
            name = names[label] if is_number else label
            if name not in ours.names:
                raise ValueError(f"{where}, row {place}: {name!r} is no label of {column}.")
            number[label] = ours.names.index(name)
    if all(label == to for label, to in number.items()):
        return rows
    new = [[number[v] for v in value] if is_list else number[value] for value in values]
    return rows.remove_columns(column).add_column(column, new)


def _describe(loaded: DatasetDict, benchmark: _Benchmark, description: str) -> None:
    for rows in loaded.values():
        rows.info.description = description
        rows.info.license, rows.info.homepage = benchmark.license, benchmark.homepage


# --- Where something stands -------------------------------------------------------------------


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _at(path: Path, line: int, what: str) -> ValueError:
    return ValueError(f"{_name(path)}, line {line}: {what}")


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _at(path, line, f"not UTF-8: {error.reason}.") from None
    except OSError as error:
        raise ValueError(f"{_name(path)} can not be read: {error.strerror}.") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line). Cut at line feeds only: tweets contain other separators."""
    for number, line in enumerate(_text(path).split("\n"), 1):
        yield number, line.removesuffix("\r")


def _read_json(path: Path) -> tuple[str, Any]:
    """(source, content)."""
    raw = _text(path)
    try:
        return raw, json.loads(raw)
    except json.JSONDecodeError as error:
        what = f"broken JSON: {error.msg}, column {error.colno}."
        raise _at(path, error.lineno, what) from None


def _line_of(raw: str, *values: Any, key: str | None = None) -> int:
    """The line of the last of these JSON values, each behind the one before, all behind the key.

    json keeps no positions; so it is searched for, and only when something is wrong with it.
    """
    place = max(0, raw.find(f'"{key}":')) if key else 0
    for value in values:
        forms = (json.dumps(value, ensure_ascii=False), json.dumps(value))
        places = [found for form in forms if (found := raw.find(form, place)) >= 0]
        place = min(places, default=place)
    return raw.count("\n", 0, place) + 1
