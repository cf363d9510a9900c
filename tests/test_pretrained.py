"""data/pretrained/docs_bert and data/results/: what lies there is what its command made."""

import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForPreTraining, AutoTokenizer

from course_utils import mlm_head
from course_utils.data.docs import Corpus, Document, docs_corpus
from course_utils.data.stored import docs_bert, stored_result
from course_utils.pretraining import BertForPreTraining, fill_mask
from course_utils.pretraining_run import Batches, Recipe, evaluate

RUN = json.loads((docs_bert() / "run.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def corpus():
    return docs_corpus(progress=False).split()


def test_the_stored_scores_are_those_of_the_stored_model(corpus):
    recipe = replace(Recipe(**RUN["recipe"]), seed=RUN["recipe"]["seed"] + 1)
    tokenizer = Tokenizer.from_file(str(docs_bert() / "tokenizer.json"))
    model = BertForPreTraining.from_pretrained(docs_bert())
    training, held_out = (Batches(part, tokenizer, recipe) for part in corpus)
    scores = evaluate(model, held_out, training.token_counts(), limit=25)
    stored = RUN["scores"]
    assert scores.masked_tokens > 4000  # 2 standard deviations of the accuracy: 0.015
    assert scores.masked_accuracy == pytest.approx(stored["masked_accuracy"], abs=0.03)
    assert scores.mlm_loss == pytest.approx(stored["mlm_loss"], abs=0.15)
    assert scores.masked_accuracy > 5 * scores.unigram_accuracy
    assert scores.nsp_accuracy > 0.6


def test_the_model_is_small_half_precision_and_loads_in_hugging_faces_library():
    weights = docs_bert() / "model.safetensors"
    assert weights.stat().st_size < 12_000_000
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.float16}
    theirs = AutoModelForPreTraining.from_pretrained(docs_bert(), dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(docs_bert())("Return the [MASK].", return_tensors="pt")
    ours = BertForPreTraining.from_pretrained(docs_bert())
    with torch.no_grad():
        expected = theirs(**tokens).prediction_logits
        found = ours(tokens["input_ids"]).mlm_logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_it_knows_what_numpy_returns():
    tokenizer = Tokenizer.from_file(str(docs_bert() / "tokenizer.json"))
    model = BertForPreTraining.from_pretrained(docs_bert())
    (best,) = fill_mask(model, tokenizer, "Return the largest value of the [MASK].", count=10)
    assert {piece for piece, _ in best} & {"array", "sequence", "input", "series", "list", "axis"}


def test_the_model_card_gives_the_figures_of_the_run():
    card = (docs_bert() / "README.md").read_text(encoding="utf-8")
    scores = RUN["scores"]
    for figure in (
        f"{scores['mlm_loss']:.2f}",
        f"{scores['perplexity']:.0f}",
        f"{scores['masked_accuracy']:.3f}",
        f"{scores['unigram_accuracy']:.3f}",
        f"{scores['nsp_accuracy']:.3f}",
        f"{RUN['recipe']['steps']:,}",
        f"{RUN['tokens']:,}",
    ):
        assert figure in card, figure
    for package in RUN["corpus"]["packages"]:
        assert re.search(rf"\b{re.escape(package)}\b", card, re.IGNORECASE), package


def test_a_row_of_the_frozen_encoders_head_comes_out_again():
    stored = stored_result("mlm_head_minilm")
    by_place = {(row["body"], row["layer"], row["steps"]): row for row in stored["rows"]}
    rows, baseline = mlm_head.rows_after([0], layer=6, progress=False)
    assert rows[0]["loss"] == pytest.approx(by_place["pretrained", 6, 0]["loss"], abs=0.15)
    assert baseline["loss"] == pytest.approx(stored["baseline"]["loss"], abs=0.1)
    for body, layer in (("pretrained", 6), ("pretrained", 4), ("random", 4)):
        last = by_place[body, layer, 100]  # most of what is right was in sight
        assert last["accuracy_at_mask"] < 0.6 * last["masked_accuracy"]


def test_only_the_new_numbers_of_the_head_are_trained():
    bert, tokenizer = mlm_head.frozen_encoder()
    before = {name: tensor.clone() for name, tensor in bert.state_dict().items()}
    head = mlm_head.new_head(bert, torch.ones(bert.config.vocab_size))
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in trained) == 179_130
    texts = ["The first short sentence is here.", "The second one follows it at once."]
    corpus = Corpus([Document(f"d{i}", "made up", texts) for i in range(4)], {}, [])
    batches = Batches(corpus, tokenizer, mlm_head.RECIPE)
    losses = [row["loss"] for row in mlm_head.train_head(bert, head, batches, steps=6)]
    assert losses[-1] < losses[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in bert.state_dict().items())
