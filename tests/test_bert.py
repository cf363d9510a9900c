"""BERT: its numbers are Hugging Face's, on released weights and on random small ones."""

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from course_utils.bert import Bert
from course_utils.data.weights import pretrained_encoder

TEXTS = [
    ["The bank of the river was steep.", "So we walked on."],
    ["Padding must not change a thing, however long the other sentences are.", "Must it?"],
    ["", "x"],
]


@pytest.fixture(scope="module")
def pair():
    """(Hugging Face's, ours), the same released weights."""
    folder = pretrained_encoder()
    theirs = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    return theirs, Bert.from_pretrained(folder)


def assert_equal_outputs(theirs, ours, batch, atol=1e-5):
    with torch.no_grad():
        want = theirs(**batch, output_hidden_states=True, output_attentions=True)
        have = ours(**batch)
    options = dict(atol=atol, rtol=1e-5)
    torch.testing.assert_close(have.last_hidden_state, want.last_hidden_state, **options)
    torch.testing.assert_close(have.pooler_output, want.pooler_output, **options)
    torch.testing.assert_close(have.hidden_states, tuple(want.hidden_states), **options)
    torch.testing.assert_close(have.attentions, tuple(want.attentions), **options)


def test_released_weights_give_hugging_faces_numbers_in_every_layer(pair):
    tokenizer = AutoTokenizer.from_pretrained(pretrained_encoder())
    batch = tokenizer([a for a, _ in TEXTS], [b for _, b in TEXTS], padding=True,
                      return_tensors="pt")  # fmt: skip
    assert batch["attention_mask"].min() == 0 and batch["token_type_ids"].max() == 1
    assert_equal_outputs(*pair, batch)
