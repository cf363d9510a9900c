"""The registry of tasks, the cache of their models, their stored results, and the curves."""

import json
from dataclasses import replace

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from test_finetuning import CONFIG, make_tokenizer
from torch import nn

from course_utils import learning_curves, tasks
from course_utils.bert import Bert
from course_utils.data import stored
from course_utils.finetuning import FineTuning, TextClassifier, predict

NAMES = ["colour", "move", "out_of_scope"]
ROWS = [("red green", 0), ("blue", 0), ("stop go", 1), ("wait", 1), ("now", 2), ("then now", 2)] * 4


def small_data() -> DatasetDict:
    features = Features({"text": Value("string"), "intent": ClassLabel(names=NAMES)})
    split = Dataset.from_dict(
        {"text": [t for t, _ in ROWS], "intent": [i for _, i in ROWS]}, features=features
    )
    return DatasetDict(train=split, validation=split, test=split)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A task of 24 texts on an encoder of 16 numbers, with a cache of its own; → runs so far"""
    torch.manual_seed(0)
    folder = tmp_path / "encoder"
    Bert(CONFIG).save_pretrained(folder)
    make_tokenizer().save(str(folder / "tokenizer.json"))
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tasks, "pretrained_encoder", lambda progress=True: folder)
    data, runs = small_data(), []

    def features(tokenizer, split):
        runs.append(len(split))
        return tasks.intent_features(tokenizer, split)

    recipe = FineTuning(epochs=3, learning_rate=5e-3, batch_size=8)
    task = tasks.Task(
        lambda: data, tasks.class_head("intent"), features, tasks.intent_scores, recipe
    )
    monkeypatch.setitem(tasks.TASKS, "small", task)
    return runs


def test_a_fine_tuned_model_is_trained_once_and_then_found(small):
    folder = tasks.fine_tuned("small", progress=False)
    assert tasks.fine_tuned("small", progress=False) == folder
    assert len(small) == 1
    classifier = TextClassifier.from_folder(folder)
    model, tokenizer = tasks.train("small", progress=False)
    texts = ["blue red", "go stop"]
    expected = TextClassifier(model, tokenizer)
    assert classifier.labels == NAMES
    torch.testing.assert_close(classifier.logits(texts), expected.logits(texts))


def test_another_seed_or_recipe_is_another_model(small, monkeypatch):
    folders = {tasks.fine_tuned("small", seed, progress=False) for seed in (0, 1)}
    task = tasks.TASKS["small"]
    changed = replace(task, recipe=replace(task.recipe, epochs=1))
    monkeypatch.setitem(tasks.TASKS, "small", changed)
    folders.add(tasks.fine_tuned("small", progress=False))
    assert len(folders) == 3


def test_a_task_sets_the_dropout_of_its_training(small, monkeypatch):
    as_it_is = tasks.fine_tuned("small", progress=False)
    seen, real = [], tasks.fine_tune

    def watched(model, *rest, **more):
        seen.append({m.p for m in model.modules() if isinstance(m, nn.Dropout)})
        return real(model, *rest, **more)

    monkeypatch.setattr(tasks, "fine_tune", watched)
    monkeypatch.setitem(tasks.TASKS, "small", replace(tasks.TASKS["small"], dropout=0.0))
    without = tasks.fine_tuned("small", progress=False)
    assert without != as_it_is  # another model: its own place in the cache
    assert seen == [{0.0}]
    for folder in (as_it_is, without):  # who trains it further finds the encoder's again
        assert TextClassifier.from_folder(folder).model.config.hidden_dropout_prob == 0.1


def test_the_same_seed_trains_the_same_model(small):
    first, _ = tasks.train("small", progress=False)
    second, tokenizer = tasks.train("small", progress=False)
    features = tasks.intent_features(tokenizer, small_data()["test"])
    assert torch.equal(predict(first, features), predict(second, features))


def test_the_command_stores_a_row_a_seed(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stored, "DATA", tmp_path)
    tasks.main(["small", "--seeds", "0", "3", "--dry-run"])
    assert not (tmp_path / "results").exists()
    tasks.main(["small", "--seeds", "0", "3"])
    record = json.loads((tmp_path / "results" / "finetuning_small.json").read_text())
    assert [row["seed"] for row in record["rows"]] == [0, 3]
    assert record["command"] == "python -m course_utils.tasks small --seeds 0 3"
    assert record["recipe"]["epochs"] == 3
    assert {"in_scope_argmax", "oos_recall_threshold", "auroc"} <= record["rows"][0].keys()
    assert "±" in capsys.readouterr().out


def test_an_unknown_task_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match="intents"):
        tasks.task("intent")


def test_the_out_of_scope_label_is_found_by_its_name():
    assert tasks.out_of_scope_label(small_data()) == 2


def test_each_search_query_has_its_own_function():
    split = Dataset.from_list(
        [
            {"function": "f()", "summary": "Do f.", "kind": "positive", "label": 1},
            {"function": "f()", "summary": "Do g.", "kind": "hard", "label": 0},
            {"function": "g()", "summary": "Do g.", "kind": "positive", "label": 1},
        ]
    )
    assert tasks.docs_search(split) == (["f()", "g()"], ["Do f.", "Do g."])


# --- learning curves


def test_a_larger_draw_keeps_the_smaller_one_and_is_balanced():
    split = small_data()["train"]
    few, more = (learning_curves.some_of_each(split, n, seed=1) for n in (2, 5))
    assert [few["intent"].count(i) for i in range(3)] == [2, 2, 2]
    assert [more["intent"].count(i) for i in range(3)] == [5, 5, 5]
    assert len(few) == 6 and len(more) == 15
    with pytest.raises(ValueError, match="8 examples"):
        learning_curves.some_of_each(split, 9, seed=1)


def test_curves_are_drawn_on_queries_in_scope():
    known = learning_curves.known_intents(small_data())
    assert set(known["test"]["intent"]) == {0, 1}


def test_a_random_start_has_the_shape_and_none_of_the_weights():
    start, folder = learning_curves.start_model("docs_bert", NAMES, seed=0)
    random, same_folder = learning_curves.start_model("docs_bert_random", NAMES, seed=0)
    assert folder == same_folder
    for name, parameter in start.bert.named_parameters():
        other = random.bert.get_parameter(name)
        assert other.shape == parameter.shape
        if parameter.dim() > 1:
            assert not torch.equal(other, parameter), name
    pretrained = Bert.from_pretrained(folder)
    assert torch.equal(start.bert.embeddings.token.weight, pretrained.embeddings.token.weight)


def test_stored_points_replace_those_of_their_start_size_and_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "DATA", tmp_path)
    for accuracy in (0.5, 0.6):
        learning_curves.store(dict(start="tfidf", n=5, seed=1, accuracy=accuracy, seconds=1))
    learning_curves.store(dict(start="minilm", n=5, seed=0, accuracy=0.9, seconds=1))
    record = stored.stored_result("learning_curves")
    kept = [(row["start"], row["accuracy"]) for row in record["rows"]]
    assert kept == [("minilm", 0.9), ("tfidf", 0.6)]
    assert record["command"].endswith("--seeds 0 1")


def test_a_cheap_row_of_the_curves_comes_out_again():
    rows = stored.stored_result("learning_curves")["rows"]
    wanted = next(r for r in rows if (r["start"], r["n"], r["seed"]) == ("tfidf", 5, 0))
    found = learning_curves.run_point("tfidf", 5, 0)
    assert found["accuracy"] == pytest.approx(wanted["accuracy"], abs=0.02)
