"""BERT: its numbers are Hugging Face's, on released weights and on random small ones; a file that
does not fit is refused by name."""

import json
import re

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, BertForPreTraining, BertModel

from course_utils.attention import padding_mask
from course_utils.bert import (
    NAME_MAP,
    Bert,
    BertConfig,
    BertEmbeddings,
    Pooler,
    bert_parameters,
    extended_attention_mask,
    load_tensors,
    published_tensors,
    read_tensors,
    translate,
)
from course_utils.data.weights import pretrained_encoder
from course_utils.wordpiece import WordPiece

EMOJI = "\N{GRINNING FACE}"
PAIRS = [
    ("The bank of the river was steep.", "So we walked on."),
    ("Padding must not change a thing, however long the other sentences are.", "Must it?"),
    ("", "x"),
    ("你好世界, שלום, العربية and " + EMOJI, "Tokenization of unmasked words"),
]
SMALL = dict(
    vocab_size=40, hidden_size=12, num_hidden_layers=2, num_attention_heads=3,
    intermediate_size=20, max_position_embeddings=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder():
    return pretrained_encoder()


@pytest.fixture(scope="module")
def pair(folder):
    """(Hugging Face's, ours), the same released weights."""
    theirs = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    return theirs, Bert.from_pretrained(folder)


@pytest.fixture(scope="module")
def batch(folder):
    return WordPiece.from_folder(folder)(*map(list, zip(*PAIRS)))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return Bert(BertConfig(**SMALL, initializer_range=0.3)).eval()


def assert_equal_outputs(theirs, ours, batch, tolerance=1e-5, rows=None):
    """Every output of the two on one batch; `rows` (batch, tokens) picks positions to compare."""
    with torch.no_grad():
        want = theirs(**batch, output_hidden_states=True, output_attentions=True)
        have = ours(**batch)
    rows = torch.ones_like(batch["input_ids"]).bool() if rows is None else rows
    options = dict(atol=tolerance, rtol=0)
    assert len(have.hidden_states) == len(want.hidden_states)
    for mine, other in zip(have.hidden_states, want.hidden_states):
        torch.testing.assert_close(mine[rows], other[rows], **options)
    for mine, other in zip(have.attentions, want.attentions):  # (batch, heads, queries, keys)
        picked = rows[:, None, :].expand(mine.shape[:3])
        torch.testing.assert_close(mine[picked], other[picked], **options)
    torch.testing.assert_close(have.last_hidden_state, have.hidden_states[-1], atol=0, rtol=0)
    torch.testing.assert_close(have.pooler_output, want.pooler_output, **options)


# --- The same numbers -----------------------------------------------------------------------------


def test_released_weights_give_hugging_faces_numbers_in_every_layer(pair, batch):
    assert batch["attention_mask"].min() == 0 and batch["token_type_ids"].max() == 1
    assert_equal_outputs(*pair, batch, rows=batch["attention_mask"].bool())
    assert_equal_outputs(*pair, batch, tolerance=1e-4)  # padded positions too, see the next test


def test_padded_positions_differ_by_rounding_only(folder, batch):
    """One of them magnifies what is left of rounding; in 64 bits nothing is left."""
    theirs = AutoModel.from_pretrained(folder, attn_implementation="eager").eval().double()
    assert_equal_outputs(theirs, Bert.from_pretrained(folder).double(), batch, tolerance=1e-10)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_random_configurations_give_hugging_faces_numbers(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    heads = draw(1, 4)
    sizes = dict(
        vocab_size=draw(5, 50), hidden_size=heads * draw(1, 6), num_hidden_layers=draw(1, 3),
        num_attention_heads=heads, intermediate_size=draw(1, 40),
        max_position_embeddings=draw(8, 20), type_vocab_size=draw(1, 4),
        hidden_act=data.draw(st.sampled_from(["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"])),
        layer_norm_eps=data.draw(st.sampled_from([1e-12, 1e-5])),
        hidden_dropout_prob=data.draw(st.sampled_from([0.0, 0.1])),
        attention_probs_dropout_prob=data.draw(st.sampled_from([0.0, 0.1])),
    )  # fmt: skip
    torch.manual_seed(draw(0, 1000))
    config = transformers.BertConfig(**sizes, initializer_range=0.5, attn_implementation="eager")
    theirs = BertModel(config).eval()
    ours = Bert(BertConfig(**sizes)).eval()
    load_tensors(ours, theirs.state_dict())
    shape = (draw(1, 3), draw(1, 8))
    lengths = [draw(1, shape[1]) for _ in range(shape[0])]
    given = {
        "input_ids": torch.randint(sizes["vocab_size"], shape),
        "attention_mask": (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long(),
        "token_type_ids": torch.randint(sizes["type_vocab_size"], shape),
    }
    for name in ("attention_mask", "token_type_ids"):
        if data.draw(st.booleans()):
            del given[name]
    assert_equal_outputs(theirs, ours, given, tolerance=2e-5)
    assert_equal_outputs(theirs.double(), ours.double(), given, tolerance=1e-10)


def test_the_fused_kernel_gives_the_same_vectors_and_no_weights(pair, batch):
    with torch.no_grad():
        slow, fast = pair[1](**batch), pair[1](**batch, need_weights=False)
    rows = batch["attention_mask"].bool()
    torch.testing.assert_close(
        fast.last_hidden_state[rows], slow.last_hidden_state[rows], atol=2e-5, rtol=0
    )
    assert fast.attentions is None


def test_padding_changes_nothing_for_the_tokens(pair, folder):
    tokenizer, bert = WordPiece.from_folder(folder), pair[1]
    together = tokenizer(["Short.", "This one is a good deal longer than the other one."])
    alone = tokenizer(["Short."])
    with torch.no_grad():
        a = bert(**together).last_hidden_state[0, : alone["input_ids"].shape[1]]
        b = bert(**alone).last_hidden_state[0]
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_a_row_of_padding_alone_stays_finite(small):
    output = small(torch.ones(1, 4).long(), torch.zeros(1, 4).long())
    assert all(t.isfinite().all() for t in (output.last_hidden_state, *output.attentions))
    assert output.attentions[0].eq(0).all()


def test_training_differs_from_eval_and_uses_both_dropouts():
    torch.manual_seed(0)
    config = BertConfig(**SMALL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    bert = Bert(config)
    assert [layer.attention.dropout for layer in bert.encoder.layers] == [0.5, 0.5]
    assert bert.encoder.layers[0].dropout.p == 0.0 == bert.embeddings.dropout.p
    ids = torch.arange(8)[None]
    assert not torch.equal(bert(ids).last_hidden_state, bert(ids).last_hidden_state)
    bert.eval()
    assert torch.equal(bert(ids).last_hidden_state, bert(ids).last_hidden_state)


def test_fresh_weights_are_drawn_as_the_configuration_says():
    torch.manual_seed(0)
    bert = Bert(BertConfig(**{**SMALL, "hidden_size": 96}, initializer_range=0.3))
    for weight in (bert.embeddings.token.weight, bert.pooler.dense.weight,
                   bert.encoder.layers[0].feed_forward.expand.weight):  # fmt: skip
        assert 0.27 < weight.std().item() < 0.33
    assert bert.pooler.dense.bias.abs().max() == 0


# --- Its parts ----------------------------------------------------------------------------------


def test_embeddings_add_token_position_and_segment(small):
    ids, segments = torch.tensor([[3, 3, 7]]), torch.tensor([[0, 1, 0]])
    parts = small.embeddings
    by_hand = torch.stack(
        [
            parts.token.weight[3] + parts.position.weight[0] + parts.segment.weight[0],
            parts.token.weight[3] + parts.position.weight[1] + parts.segment.weight[1],
            parts.token.weight[7] + parts.position.weight[2] + parts.segment.weight[0],
        ]
    )
    expected = nn.functional.layer_norm(by_hand, (12,), eps=1e-12)
    torch.testing.assert_close(small.embeddings(ids, segments)[0], expected, atol=1e-5, rtol=0)
    zeros = small.embeddings(ids, torch.zeros_like(ids))
    assert torch.equal(small.embeddings(ids), zeros)


def test_the_pooler_reads_the_first_token_only():
    pooler = Pooler(BertConfig(**SMALL))
    states = torch.randn(2, 5, 12)
    changed = states.clone()
    changed[:, 1:] += 1
    assert torch.equal(pooler(states), pooler(changed))
    assert pooler(100 * states).abs().max() <= 1
    torch.testing.assert_close(pooler(states), torch.tanh(pooler.dense(states[:, 0])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_extended_mask_hides_what_the_boolean_mask_hides(dtype):
    attention_mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    mask = extended_attention_mask(attention_mask, dtype)
    assert mask.shape == (2, 1, 1, 3) and mask.dtype == dtype and mask.isfinite().all()
    scores = torch.randn(2, 4, 3, 3, dtype=dtype)
    hidden = scores.masked_fill(~padding_mask(attention_mask), float("-inf"))
    torch.testing.assert_close((scores + mask).softmax(-1), hidden.softmax(-1))
    nothing = extended_attention_mask(torch.zeros(1, 2).long(), dtype)
    assert nothing.softmax(-1).flatten().tolist() == [0.5, 0.5]


# --- Sizes --------------------------------------------------------------------------------------


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    "config, parameters",
    [(BertConfig.base(), 109_482_240), (BertConfig.large(), 335_141_888)],
    ids=["base", "large"],
)
def test_base_and_large_have_exactly_as_many_parameters_as_published(config, parameters):
    with torch.device("meta"):  # shapes without memory
        bert = Bert(config)
    assert count(bert) == bert_parameters(config) == parameters


def test_the_count_by_formula_is_that_of_any_built_model(small, pair):
    assert count(small) == bert_parameters(small.config)
    assert count(pair[1]) == bert_parameters(pair[1].config) == 22_713_216


def test_sharing_layers_saves_parameters_and_no_operation():
    with torch.device("meta"):
        plain, shared = Bert(BertConfig.base()), Bert(BertConfig.base())
        shared.encoder.layers = nn.ModuleList([shared.encoder.layers[0]] * 12)
        operations = []
        for bert in (plain, shared):
            with FlopCounterMode(display=False) as counter:
                bert.eval()(torch.zeros(1, 128, dtype=torch.long))
            operations.append(counter.get_total_flops())
    assert operations[0] == operations[1] > 2e10
    assert count(plain) - count(shared) == 11 * 7_087_872


# --- Bad input ----------------------------------------------------------------------------------


def refused(action, *words):
    """The call raises ValueError, in one line, with these words."""
    with pytest.raises(ValueError) as error:
        action()
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    return message


def test_a_text_over_the_limit_is_refused_before_anything_is_computed(small, monkeypatch):
    monkeypatch.setattr(BertEmbeddings, "forward", None)
    refused(lambda: small(torch.zeros(1, 17).long()), "17 tokens", "1 to 16", "split it")
    refused(lambda: small(torch.zeros(1, 0).long()), "0 tokens")


def test_input_that_does_not_fit_is_refused(small):
    ids = torch.zeros(2, 3).long()
    refused(lambda: small(ids[0]), "(batch, tokens)", "[None]")
    refused(lambda: small(ids.float()), "integers")
    refused(lambda: small(ids + 40), "token ids run from 40 to 40", "0 to 39")
    refused(lambda: small(ids - 1), "token ids run from -1")
    refused(lambda: small(ids, token_type_ids=ids + 2), "segment ids", "0 to 1")
    refused(lambda: small(ids, attention_mask=torch.ones(2, 4).long()), "attention_mask (2, 4)")
    refused(lambda: small(ids, token_type_ids=ids[:1]), "token_type_ids (1, 3)")


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(num_attention_heads=5), "5 heads do not divide"),
        (dict(hidden_act="swish"), "'swish' is unknown"),
        (dict(hidden_dropout_prob=1.5), "hidden_dropout_prob is 1.5"),
        (dict(attention_probs_dropout_prob=-0.1), "attention_probs_dropout_prob is -0.1"),
        (dict(vocab_size=0), "vocab_size is 0"),
        (dict(hidden_size=12.0), "hidden_size is 12.0"),
        (dict(num_hidden_layers=-1), "num_hidden_layers is -1"),
    ],
)
def test_a_configuration_that_can_not_be_built_is_refused(change, words):
    refused(lambda: BertConfig(**{**SMALL, **change}), words)


# --- Loading and saving -------------------------------------------------------------------------


@pytest.fixture
def saved(small, tmp_path):
    small.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def rewrite(folder, change):
    """Change a folder's tensors: change(dict) in place."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_what_we_save_hugging_face_loads(small, saved):
    theirs, report = AutoModel.from_pretrained(
        saved, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert isinstance(theirs, BertModel)
    ids = torch.tensor([[1, 5, 7, 2], [1, 9, 2, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    assert_equal_outputs(theirs.eval(), small, batch)


def test_what_we_save_we_load(small, saved):
    again = Bert.from_pretrained(saved)
    assert again.config == small.config and not again.training
    for (name, a), (_, b) in zip(small.named_parameters(), again.named_parameters()):
        assert torch.equal(a, b), name


def test_half_precision_files_load_into_single_precision(small, saved):
    rewrite(saved, lambda tensors: tensors.update({n: t.half() for n, t in tensors.items()}))
    again = Bert.from_pretrained(saved)
    assert again.embeddings.token.weight.dtype == torch.float32
    torch.testing.assert_close(
        again.embeddings.token.weight, small.embeddings.token.weight, atol=1e-3, rtol=1e-3
    )


@pytest.fixture
def old_layout(tmp_path):
    """(folder laid out as google-bert/bert-base-uncased: heads, prefix, gamma, beta; its model)"""
    torch.manual_seed(1)
    config = transformers.BertConfig(**SMALL, attn_implementation="eager")
    model = BertForPreTraining(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" in name:  # else every one is ones and zeros, and may be exchanged
                parameter.add_(torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "old")

    def rename(tensors):
        for name in list(tensors):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            tensors[old.replace("LayerNorm.bias", "LayerNorm.beta")] = tensors.pop(name)
        tensors["bert.embeddings.position_ids"] = torch.arange(16)[None]
        words = tensors["bert.embeddings.word_embeddings.weight"]
        tensors["cls.predictions.decoder.weight"] = words.clone()  # some files repeat it

    rewrite(tmp_path / "old", rename)
    return tmp_path / "old", model


def test_the_layout_of_bert_base_uncased_loads(old_layout):
    folder, model = old_layout
    names = read_tensors(folder)
    assert "bert.encoder.layer.0.output.LayerNorm.gamma" in names
    assert "cls.seq_relationship.weight" in names
    ids = torch.tensor([[1, 5, 7, 2]])
    assert_equal_outputs(model.bert, Bert.from_pretrained(folder), {"input_ids": ids})


class WithHeads(nn.Module):
    """The parameters of the heads of lesson 05, under its names."""

    def __init__(self, config):
        super().__init__()
        hidden = config.hidden_size
        self.bert = Bert(config)
        self.mlm = nn.Module()
        self.mlm.dense, self.mlm.norm = nn.Linear(hidden, hidden), nn.LayerNorm(hidden)
        self.mlm.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.mlm.tied = self.bert.embeddings.token.weight
        self.nsp = nn.Module()
        self.nsp.dense = nn.Linear(hidden, 2)


def test_the_same_map_carries_the_heads(old_layout):
    folder, model = old_layout
    ours = WithHeads(BertConfig(**SMALL))
    load_tensors(ours, read_tensors(folder))
    head = model.cls.predictions
    assert torch.equal(ours.mlm.norm.weight, head.transform.LayerNorm.weight)
    assert torch.equal(ours.mlm.bias, head.bias)
    assert torch.equal(ours.nsp.dense.weight, model.cls.seq_relationship.weight)
    given_back = published_tensors(ours)
    assert given_back.keys() == {
        name for name, _ in model.named_parameters() if "decoder" not in name
    }
    for name, tensor in given_back.items():
        assert torch.equal(tensor, model.get_parameter(name)), name


def test_heads_that_are_not_in_the_file_are_named(saved):
    ours = WithHeads(BertConfig(**SMALL))
    message = refused(lambda: load_tensors(ours, read_tensors(saved)), "missing: cls.predictions")
    assert "missing: cls.seq_relationship.weight" in message


def test_a_decoder_that_is_not_tied_is_refused(old_layout):
    tensors = read_tensors(old_layout[0])
    tensors["cls.predictions.decoder.weight"] += 1
    load_tensors(Bert(BertConfig(**SMALL)), tensors)  # no head, no matter
    refused(
        lambda: load_tensors(WithHeads(BertConfig(**SMALL)), tensors),
        "cls.predictions.decoder.weight is not embeddings.word_embeddings.weight",
    )


def test_missing_unexpected_and_misshapen_tensors_are_named_and_nothing_is_loaded(small, saved):
    def spoil(tensors):
        del tensors["encoder.layer.1.attention.self.key.bias"]
        tensors["encoder.layer.0.adapter.weight"] = torch.zeros(2)
        tensors["pooler.dense.weight"] = torch.zeros(3, 12)

    rewrite(saved, spoil)
    refused(
        lambda: Bert.from_pretrained(saved),
        "missing: encoder.layer.1.attention.self.key.bias",
        "unexpected: encoder.layer.0.adapter.weight",
        "misshapen: pooler.dense.weight is (3, 12), the model needs (12, 12)",
    )
    before = small.embeddings.token.weight.clone()
    tensors = {name: tensor + 1 for name, tensor in read_tensors(saved).items()}
    refused(lambda: load_tensors(small, tensors), "missing")
    assert torch.equal(small.embeddings.token.weight, before)


def test_a_layer_more_or_less_in_the_file_is_named(saved):
    config = json.loads((saved / "config.json").read_text())
    for layers, word in ((1, "unexpected: encoder.layer.1."), (3, "missing: encoder.layer.2.")):
        (saved / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
        refused(lambda: Bert.from_pretrained(saved), word)


def test_query_and_key_exchanged_load_without_a_word_and_give_other_numbers(small):
    """What no loader can see: it takes a comparison of outputs."""
    right = published_tensors(small)
    swap = {"query": "key", "key": "query"}
    wrong = {
        re.sub("query|key", lambda found: swap[found[0]], name): tensor
        for name, tensor in right.items()
    }
    other = Bert(small.config).eval()
    load_tensors(other, wrong)
    ids = torch.arange(1, 9)[None]
    assert (other(ids).last_hidden_state - small(ids).last_hidden_state).abs().max() > 1e-4


@pytest.mark.parametrize("kept", [0, 5, 1000])
def test_a_corrupted_weights_file_is_refused_in_one_line(saved, kept):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(lambda: Bert.from_pretrained(saved), "model.safetensors is damaged", "fetch it again")


def test_a_folder_that_lacks_a_file_is_refused(saved):
    (saved / "model.safetensors").rename(saved / "weights.bin")
    refused(lambda: Bert.from_pretrained(saved), "holds no model.safetensors")
    (saved / "config.json").unlink()
    refused(lambda: Bert.from_pretrained(saved), "config.json can not be read")


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "is no JSON"),
        ("[]", "describes a 'list'"),
        ('{"model_type": "roberta"}', "describes a 'roberta'"),
        ('{"position_embedding_type": "relative_key"}', "'relative_key' positions"),
        ('{"is_decoder": true}', "describes a decoder"),
        ('{"hidden_size": 7}', "12 heads do not divide"),
    ],
)
def test_a_configuration_file_of_something_else_is_refused(tmp_path, text, words):
    (tmp_path / "config.json").write_text(text)
    refused(lambda: BertConfig.from_folder(tmp_path), words)


def test_a_configuration_file_may_leave_out_what_has_a_default(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 24, "something_new": 1}')
    assert BertConfig.from_folder(tmp_path) == BertConfig(hidden_size=24)


def test_a_name_of_the_hub_that_can_not_be_reached_is_one_line(monkeypatch, tmp_path):
    def no_network(name, **_):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    with pytest.raises(OSError, match="google-bert/bert-base-uncased, and the Hub") as error:
        Bert.from_pretrained("google-bert/bert-base-uncased")
    assert "\n" not in str(error.value)
    refused(lambda: Bert.from_pretrained(tmp_path / "nowhere"), "neither a folder nor a name")


def test_a_name_of_the_hub_is_fetched_by_huggingface_hub(monkeypatch, saved, small):
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **_: asked.append(name) or str(saved)
    )
    bert = Bert.from_pretrained("google-bert/bert-base-uncased")
    assert asked == ["google-bert/bert-base-uncased"]
    assert torch.equal(bert.pooler.dense.weight, small.pooler.dense.weight)


def test_every_line_of_the_name_map_reads_both_ways():
    assert len({ours for ours, _ in NAME_MAP}) == len({theirs for _, theirs in NAME_MAP})
    for ours, theirs in NAME_MAP:
        name = theirs.replace("{n}", "11") + ".weight"
        back = translate(name, NAME_MAP, to="ours")
        assert back == ours.replace("{n}", "11") + ".weight"
        assert translate(back, NAME_MAP, to="theirs") == name
    assert translate("encoder.layer.1.attention.self.query.gate", NAME_MAP, to="ours") is None


def test_the_model_can_be_exported(small):
    """Checks that look at values step aside where a graph is recorded."""
    ids = torch.ones(2, 5, dtype=torch.long)
    program = torch.export.export(small, (ids, torch.ones_like(ids)))
    torch.testing.assert_close(
        program.module()(ids, torch.ones_like(ids))[0], small(ids).last_hidden_state
    )
