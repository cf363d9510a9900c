"""DistilBERT's three losses: what each compares, and who learns."""

import pytest
import torch
import torch.nn.functional as F

from course_utils import distilbert
from course_utils.bert import BertConfig
from course_utils.data.docs import Corpus, Document
from course_utils.data.stored import docs_bert, stored_result
from course_utils.distilbert import WEIGHTS, distil, triple_loss
from course_utils.distillation import keep_layers
from course_utils.finetuning import load_tokenizer
from course_utils.pretraining import IGNORE, BertForPreTraining
from course_utils.pretraining_run import Batches, Recipe

RECIPE = Recipe(steps=6, layers=2, max_length=32, batch_tokens=256, learning_rate=1e-3)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(docs_bert())


@pytest.fixture(scope="module")
def batches(tokenizer):
    words = "return the largest value of the array along the given axis".split()
    texts = [" ".join(words[i % 5 :] + words[: i % 7 + 2]) + "." for i in range(40)]
    documents = [Document("test", f"d{i}", texts[4 * i : 4 * i + 4]) for i in range(10)]
    return Batches(Corpus(documents, {}, []), tokenizer, RECIPE)


@pytest.fixture
def teacher(tokenizer):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=16, num_hidden_layers=4,
        num_attention_heads=2, intermediate_size=32, max_position_embeddings=32,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.3,
    )  # fmt: skip
    return BertForPreTraining(config).eval()


def test_each_loss_is_what_it_says(teacher, batches):
    student = keep_layers(teacher, (2, 4))
    batch, masked, labels = batches[0]
    found = triple_loss(student, teacher, batch, masked, labels)
    chosen, real = labels != IGNORE, batch.attention_mask.bool()
    outputs = []
    for model in (student, teacher):
        states = model.bert(masked, batch.attention_mask, batch.token_type_ids).last_hidden_state
        outputs.append((states, model.mlm(states)[chosen]))
    (states, logits), (their_states, their_logits) = outputs
    assert found["mlm"].item() == pytest.approx(F.cross_entropy(logits, labels[chosen]).item())
    p, q = ((x / 2).log_softmax(-1) for x in (their_logits, logits))
    soft = 4 * (p.exp() * (p - q)).sum(-1).mean()
    assert found["soft"].item() == pytest.approx(soft.item(), rel=1e-4)
    a, b = (F.normalize(x[real], dim=-1) for x in (states, their_states))
    assert found["cosine"].item() == pytest.approx((1 - (a * b).sum(-1)).mean().item(), abs=1e-5)


def test_a_student_equal_to_its_teacher_has_nothing_left_to_copy(teacher, batches):
    found = triple_loss(keep_layers(teacher, (1, 2, 3, 4)), teacher, *batches[0])
    assert found["soft"].item() == pytest.approx(0, abs=1e-5)
    assert found["cosine"].item() == pytest.approx(0, abs=1e-5)
    assert found["mlm"] > 1


@pytest.mark.parametrize("parts", [("mlm",), ("soft",), ("cosine",), tuple(WEIGHTS)])
def test_the_losses_that_count_fall_and_the_teacher_stays(teacher, batches, parts):
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    student = keep_layers(teacher, (2, 4))
    same = [triple_loss(student, teacher, *batches[0])]
    rows = list(distil(student, teacher, batches, parts, steps=6))
    same.append(triple_loss(student, teacher, *batches[0]))
    first, last = (sum(WEIGHTS[p] * losses[p] for p in parts).item() for losses in same)
    assert last < first and len(rows) == 6
    assert all(v.equal(before[k]) for k, v in teacher.state_dict().items())
    assert not teacher.training and all(p.grad is None for p in teacher.parameters())


def test_no_part_and_an_unknown_one_are_refused(teacher, batches):
    for parts in ((), ("nsp",)):
        with pytest.raises(ValueError, match="take one or more of soft, mlm, cosine"):
            next(distil(teacher, teacher, batches, parts))


def test_a_cheap_stored_row_comes_out_again():
    stored = stored_result("distilbert")
    assert stored["command"].startswith("python -m course_utils.distilbert --seeds")
    row = next(row for row in stored["rows"] if row["setting"] == "no training")
    again = distilbert.run("no training", progress=False)
    assert again["mlm_loss"] == pytest.approx(row["mlm_loss"], abs=0.15)
    assert again["masked_accuracy"] == pytest.approx(row["masked_accuracy"], abs=0.03)
