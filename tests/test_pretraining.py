import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from torch.nn import functional as F
from transformers import BertConfig as TheirConfig
from transformers import BertForPreTraining as TheirBertForPreTraining
from transformers import get_linear_schedule_with_warmup

from course_utils.bert import BertConfig
from course_utils.data.docs import train_tokenizer
from course_utils.pretraining import (
    IGNORE,
    BertForPreTraining,
    MlmHead,
    choose_words,
    fill_mask,
    linear_warmup_decay,
    mask_tokens,
    mlm_loss,
    nsp_pairs,
    pack,
    truncate_pair,
    unigram_baseline,
    whole_word_mask,
)

SETTINGS = settings(max_examples=25, deadline=None)
CLS, SEP, MASK, PAD = 2, 3, 4, 0
SMALL = BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def within(count: int, trials: int, share: float, sigmas: float = 5.0) -> bool:
    """Is a binomial count within `sigmas` standard deviations of what it should be?"""
    return abs(count - trials * share) <= sigmas * math.sqrt(trials * share * (1 - share))


# --- masking


def test_masking_chooses_15_percent_and_splits_them_80_10_10():
    draws, vocab_size, token = 100_000, 1_000, 7
    input_ids = torch.full((100, draws // 100), token)
    masked, labels = mask_tokens(
        input_ids, torch.zeros_like(input_ids), MASK, vocab_size, generator=seeded()
    )
    chosen = labels != IGNORE
    count = int(chosen.sum())
    assert within(count, draws, 0.15)
    assert within(int((masked[chosen] == MASK).sum()), count, 0.8 + 0.1 / vocab_size)
    assert within(int((masked[chosen] == token).sum()), count, 0.1 + 0.1 / vocab_size)
    other = (masked[chosen] != MASK) & (masked[chosen] != token)
    assert within(int(other.sum()), count, 0.1 - 0.2 / vocab_size)


def test_random_replacements_are_spread_over_the_whole_vocabulary():
    input_ids = torch.full((200, 500), 7)
    masked, _ = mask_tokens(input_ids, torch.zeros_like(input_ids), MASK, 20, 1.0, seeded())
    seen = torch.bincount(masked.flatten(), minlength=20)
    for token in set(range(20)) - {MASK, 7}:
        assert within(int(seen[token]), 100_000, 0.1 / 20)


@SETTINGS
@given(
    batch=st.integers(1, 4),
    tokens=st.integers(1, 30),
    probability=st.floats(0, 1),
    seed=st.integers(0, 9_999),
)
def test_no_special_token_is_ever_masked_and_labels_are_what_stood_there(
    batch, tokens, probability, seed
):
    generator = seeded(seed)
    input_ids = torch.randint(0, 50, (batch, tokens), generator=generator)
    special = torch.rand(batch, tokens, generator=generator) < 0.3
    before = input_ids.clone()
    masked, labels = mask_tokens(input_ids, special, MASK, 50, probability, generator)
    assert torch.equal(input_ids, before)
    assert (labels[special] == IGNORE).all()
    assert torch.equal(masked[special], input_ids[special])
    chosen = labels != IGNORE
    assert torch.equal(labels[chosen], input_ids[chosen])
    assert torch.equal(masked[~chosen], input_ids[~chosen])
    assert masked.dtype == labels.dtype == input_ids.dtype


def test_probability_0_chooses_nothing_and_1_everything_but_special_tokens():
    input_ids = torch.randint(5, 50, (4, 200), generator=seeded())
    special = torch.zeros_like(input_ids)
    special[:, 0] = 1
    masked, labels = mask_tokens(input_ids, special, MASK, 50, 0.0, seeded())
    assert torch.equal(masked, input_ids) and (labels == IGNORE).all()
    _, labels = mask_tokens(input_ids, special, MASK, 50, 1.0, seeded())
    assert (labels[:, 1:] == input_ids[:, 1:]).all() and (labels[:, 0] == IGNORE).all()


@pytest.mark.parametrize("probability", [-0.1, 1.1, 15, float("nan")])
def test_a_probability_outside_0_to_1_is_refused(probability):
    input_ids = torch.ones(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        mask_tokens(input_ids, torch.zeros_like(input_ids), MASK, 50, probability)


def test_masking_refuses_shapes_and_ids_that_do_not_fit():
    input_ids = torch.ones(2, 3, dtype=torch.long)
    none = torch.zeros_like(input_ids)
    with pytest.raises(ValueError, match="one flag a token"):
        mask_tokens(input_ids, none[:1], MASK, 50)
    with pytest.raises(ValueError, match="0 to 49"):
        mask_tokens(input_ids, none, 50, 50)
    with pytest.raises(ValueError, match="integers"):
        mask_tokens(input_ids.float(), none, MASK, 50)
    with pytest.raises(ValueError, match="continues_word"):
        whole_word_mask(input_ids, none, none[:, :2], MASK, 50)


def test_the_same_generator_gives_the_same_masks():
    input_ids = torch.randint(5, 50, (4, 50), generator=seeded(1))
    none = torch.zeros_like(input_ids)
    first, again, other = (
        mask_tokens(input_ids, none, MASK, 50, generator=seeded(seed))[0] for seed in (3, 3, 4)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@SETTINGS
@given(tokens=st.integers(2, 40), seed=st.integers(0, 9_999))
def test_whole_word_masking_chooses_all_pieces_of_a_word_or_none(tokens, seed):
    generator = seeded(seed)
    input_ids = torch.randint(5, 50, (3, tokens), generator=generator)
    special = torch.zeros(3, tokens, dtype=torch.bool)
    special[:, 0] = special[:, -1] = True
    continues = (torch.rand(3, tokens, generator=generator) < 0.4) & ~special
    _, labels = whole_word_mask(input_ids, special, continues, MASK, 50, 0.5, generator)
    chosen = labels != IGNORE
    assert not chosen[special].any()
    inside = continues[:, 1:] & ~special[:, :-1]  # a piece that has its word right before it
    assert torch.equal(chosen[:, 1:][inside], chosen[:, :-1][inside])


def test_whole_word_masking_chooses_words_and_not_pieces_with_the_probability():
    continues = torch.tensor([False, True, True, False]).repeat(300, 100)  # words of 3 and 1 pieces
    input_ids = torch.full(continues.shape, 7)
    none = torch.zeros_like(continues)
    _, labels = whole_word_mask(input_ids, none, continues, MASK, 50, 0.15, seeded())
    chosen = (labels != IGNORE).view(300, 100, 4)
    for place in range(4):
        assert within(int(chosen[:, :, place].sum()), 30_000, 0.15)


# --- pairs


def numbered(documents: int, sentences: int, length: int = 3) -> list[list[list[int]]]:
    """Every sentence repeats a number that tells its document and its place."""
    return [[[100 * d + s] * length for s in range(sentences)] for d in range(documents)]


def test_half_of_the_pairs_are_real_and_the_others_come_from_another_document():
    pairs = nsp_pairs(numbered(20, 51), seeded(), max_length=64)
    assert len(pairs) == 20 * 50
    real = sum(pair.label == 0 for pair in pairs)  # 0 = is next, as in the released weights
    assert within(real, len(pairs), 0.5)
    for first, second, label in pairs:
        if label == 0:
            assert second[0] == first[0] + 1
        else:
            assert label == 1
            assert second[0] // 100 != first[0] // 100


def test_other_documents_are_drawn_evenly():
    pairs = nsp_pairs(numbered(5, 99), seeded(1), max_length=64)
    sources = [p.second[0] // 100 for p in pairs if p.label == 1 and p.first[0] < 100]
    for document in (1, 2, 3, 4):
        assert within(sources.count(document), len(sources), 0.25)


def test_pairs_need_two_documents_with_text_and_room():
    with pytest.raises(ValueError, match="at least two"):
        nsp_pairs(numbered(1, 10))
    with pytest.raises(ValueError, match="at least two"):
        nsp_pairs([[[5], [6]], [], [[]]])
    with pytest.raises(ValueError, match="takes 5"):
        nsp_pairs(numbered(2, 3), max_length=4)


@SETTINGS
@given(first=st.integers(0, 40), second=st.integers(0, 40), room=st.integers(0, 50))
def test_truncation_takes_from_the_longer_and_stops_when_it_fits(first, second, room):
    a, b = list(range(first)), list(range(100, 100 + second))
    short_a, short_b = truncate_pair(a, b, room)
    assert short_a == a[: len(short_a)] and short_b == b[: len(short_b)]
    assert len(short_a) + len(short_b) == min(room, first + second)
    expected_a, expected_b = first, second  # one token at a time, as in Google's code
    while expected_a + expected_b > room:
        if expected_a > expected_b:
            expected_a -= 1
        else:
            expected_b -= 1
    assert (len(short_a), len(short_b)) == (expected_a, expected_b)


def test_packing_writes_specials_segments_and_padding():
    batch = pack([([5, 6], [7], 0), ([8], [], 1)], CLS, SEP, PAD)
    assert batch.input_ids.tolist() == [[2, 5, 6, 3, 7, 3], [2, 8, 3, 0, 0, 0]]
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 0, 1, 1], [0] * 6]
    assert batch.attention_mask.tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]
    assert batch.special_tokens_mask.long().tolist() == [[1, 0, 0, 1, 0, 1], [1, 0, 1, 1, 1, 1]]
    assert batch.next_sentence_label.tolist() == [0, 1]
    with pytest.raises(ValueError, match="at least one"):
        pack([], CLS, SEP)


# --- heads, losses, model


def some_batch(config: BertConfig, batch: int, tokens: int, seed: int) -> dict[str, torch.Tensor]:
    generator = seeded(seed)
    input_ids = torch.randint(5, config.vocab_size, (batch, tokens), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[0, tokens // 2 + 1 :] = 0
    masked, labels = mask_tokens(
        input_ids, attention_mask == 0, MASK, config.vocab_size, 0.5, generator
    )
    labels[0, 0] = input_ids[0, 0]  # at least one
    return {
        "input_ids": masked,
        "attention_mask": attention_mask,
        "token_type_ids": (torch.arange(tokens) > tokens // 2).long().expand(batch, tokens),
        "labels": labels,
        "next_sentence_label": torch.randint(0, 2, (batch,), generator=generator),
    }


def test_the_decoder_is_the_embedding_itself():
    model = BertForPreTraining(SMALL)
    assert model.mlm.token_embedding_weight is model.bert.embeddings.token.weight
    own = sum(p.numel() for p in model.mlm.parameters()) - model.mlm.token_embedding_weight.numel()
    assert own == 16 * 17 + 2 * 16 + 50
    with pytest.raises(ValueError, match=r"\(50, 16\)"):
        MlmHead(SMALL, torch.nn.Parameter(torch.zeros(16, 50)))


def test_an_mlm_head_for_minilm_has_179130_new_parameters():
    config = BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
    head = MlmHead(config, torch.nn.Parameter(torch.empty(30_522, 384, device="meta")))
    new = [p for name, p in head.named_parameters() if name != "token_embedding_weight"]
    assert sum(p.numel() for p in new) == 384 * 384 + 384 + 2 * 384 + 30_522 == 179_130


def test_the_loss_is_the_mean_over_chosen_tokens_and_0_over_none():
    logits = torch.randn(2, 3, 7, generator=seeded(), requires_grad=True)
    labels = torch.tensor([[1, IGNORE, 3], [IGNORE, IGNORE, 6]])
    by_hand = -sum(logits[r, c].log_softmax(-1)[labels[r, c]] for r, c in [(0, 0), (0, 2), (1, 2)])
    torch.testing.assert_close(mlm_loss(logits, labels), by_hand / 3)
    nothing = mlm_loss(logits, torch.full((2, 3), IGNORE))
    nothing.backward()
    assert nothing.item() == 0.0 and logits.grad.abs().max() == 0


def test_computing_the_head_on_chosen_tokens_only_changes_no_number():
    torch.manual_seed(0)
    model = BertForPreTraining(SMALL)
    batch = some_batch(SMALL, 3, 11, seed=5)
    short = model(**batch)
    whole = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    chosen = batch["labels"] != IGNORE
    torch.testing.assert_close(short.mlm_logits, whole.mlm_logits[chosen])
    torch.testing.assert_close(short.mlm_loss, mlm_loss(whole.mlm_logits, batch["labels"]))
    torch.testing.assert_close(short.loss, short.mlm_loss + short.nsp_loss)
    assert whole.loss is whole.mlm_loss is whole.nsp_loss is None


def test_the_gradient_reaches_the_embeddings_by_two_ways_that_add_up():
    torch.manual_seed(0)
    model = BertForPreTraining(SMALL).double()
    batch = some_batch(SMALL, 3, 11, seed=5)
    table = model.bert.embeddings.token.weight

    def gradient(input_side: bool, output_side: bool) -> torch.Tensor:
        model.mlm.token_embedding_weight = table
        model.zero_grad()
        if not output_side:
            del model.mlm.token_embedding_weight
            model.mlm.token_embedding_weight = table.detach()
        handle = model.bert.embeddings.token.register_forward_hook(
            lambda module, args, output: output if input_side else output.detach()
        )
        model(**batch).mlm_loss.backward()
        handle.remove()
        if not output_side:
            del model.mlm.token_embedding_weight
            model.mlm.token_embedding_weight = table
        return table.grad.clone()

    looked_up, decoded = gradient(True, False), gradient(False, True)
    assert looked_up.norm() > 0 and decoded.norm() > 0
    torch.testing.assert_close(looked_up + decoded, gradient(True, True))
    seen = torch.zeros(50, dtype=torch.bool)
    seen[batch["input_ids"].unique()] = True
    assert (looked_up[~seen] == 0).all()  # only tokens that stood in the batch
    assert (decoded.norm(dim=-1) > 0).all()  # every token of the vocabulary


def test_the_nsp_loss_reads_position_0_through_the_pooler_only():
    torch.manual_seed(0)
    model = BertForPreTraining(SMALL)
    batch = some_batch(SMALL, 3, 11, seed=5)
    states = []
    model.bert.encoder.layers[-1].register_forward_hook(
        lambda module, args, output: states.append(output[0]) or output[0].retain_grad()
    )
    model.bert.embeddings.register_forward_hook(
        lambda module, args, output: states.append(output) or output.retain_grad()
    )
    model(**batch).nsp_loss.backward()
    at_the_bottom, at_the_top = states
    assert (at_the_top.grad[:, 0].norm(dim=-1) > 0).all()
    assert (at_the_top.grad[:, 1:] == 0).all()
    attended = batch["attention_mask"].bool()
    assert (at_the_bottom.grad.norm(dim=-1)[attended] > 0).all()
    assert (at_the_bottom.grad.norm(dim=-1)[~attended] == 0).all()


@SETTINGS
@given(
    heads=st.integers(1, 3),
    head_width=st.integers(1, 6),
    layers=st.integers(1, 3),
    wide=st.integers(1, 24),
    vocab_size=st.integers(8, 40),
    batch=st.integers(1, 3),
    tokens=st.integers(2, 12),
    act=st.sampled_from(["gelu", "relu"]),
    seed=st.integers(0, 9_999),
)
def test_losses_and_logits_equal_hugging_faces(
    tmp_path_factory, heads, head_width, layers, wide, vocab_size, batch, tokens, act, seed
):
    sizes = dict(
        vocab_size=vocab_size,
        hidden_size=heads * head_width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=wide,
        hidden_act=act,
        max_position_embeddings=12,
    )
    torch.manual_seed(seed)
    theirs = TheirBertForPreTraining(TheirConfig(**sizes)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(folder)
    ours = BertForPreTraining.from_pretrained(folder).eval()
    inputs = some_batch(BertConfig(**sizes), batch, tokens, seed)
    with torch.no_grad():
        mine, other = ours(**inputs), theirs(**inputs)
        full = ours(inputs["input_ids"], inputs["attention_mask"], inputs["token_type_ids"])
    torch.testing.assert_close(mine.loss, other.loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine.nsp_logits, other.seq_relationship_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(full.mlm_logits, other.prediction_logits, rtol=1e-4, atol=1e-4)


def test_a_saved_model_comes_back_and_loads_in_hugging_face(tmp_path):
    torch.manual_seed(0)
    ours = BertForPreTraining(SMALL).eval()
    ours.save_pretrained(tmp_path)
    batch = some_batch(SMALL, 2, 9, seed=3)
    again = BertForPreTraining.from_pretrained(tmp_path).eval()
    assert again.mlm.token_embedding_weight is again.bert.embeddings.token.weight
    theirs, report = TheirBertForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        loss = ours(**batch).loss
        torch.testing.assert_close(again(**batch).loss, loss)
        torch.testing.assert_close(theirs.eval()(**batch).loss, loss, rtol=1e-4, atol=1e-5)


# --- schedule and baseline


@SETTINGS
@given(total=st.integers(1, 60), data=st.data())
def test_the_schedule_equals_hugging_faces(total, data):
    warmup = data.draw(st.integers(0, total))
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, total)
    for step in range(total + 3):
        assert linear_warmup_decay(step, warmup, total) == pytest.approx(
            schedule.lr_lambdas[0](step)
        )


def test_the_schedule_climbs_to_1_at_the_end_of_warmup_and_falls_to_0_at_the_end():
    assert [linear_warmup_decay(step, 2, 6) for step in range(8)] == [
        0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0,
    ]  # fmt: skip
    for step, warmup, total in [(-1, 2, 6), (0, 7, 6), (0, -1, 6)]:
        with pytest.raises(ValueError, match="warm-up"):
            linear_warmup_decay(step, warmup, total)


def test_the_baseline_is_the_cross_entropy_of_the_frequencies():
    counts = torch.tensor([7, 1, 3, 1])  # with one added: shares 1/2, 1/8, 1/4, 1/8
    labels = torch.tensor([[0, IGNORE, 2], [1, 0, IGNORE]])
    baseline = unigram_baseline(counts, labels)
    assert baseline.loss == pytest.approx(math.log(2) * (1 + 2 + 3 + 1) / 4)
    assert baseline.accuracy == 0.5
    logits = ((counts + 1) / 16).log().expand(2, 3, 4)
    assert F.cross_entropy(logits.flatten(0, 1), labels.flatten()).item() == pytest.approx(
        baseline.loss
    )
    with pytest.raises(ValueError, match="no label"):
        unigram_baseline(counts, torch.tensor([IGNORE]))


# --- filling masks


@pytest.fixture(scope="module")
def reader():
    """An untrained model and a tokenizer with a vocabulary of its own."""
    tokenizer = train_tokenizer(["the cat sat on the mat"] * 3 + ["a dog saw the cat"], 40)
    torch.manual_seed(0)
    config = replace(SMALL, vocab_size=tokenizer.get_vocab_size())
    return BertForPreTraining(config).eval(), tokenizer


def test_each_mask_gets_its_best_pieces_and_never_a_special_token(reader):
    model, tokenizer = reader
    count = tokenizer.get_vocab_size() - 5
    first, second = fill_mask(model, tokenizer, "the [MASK] sat on [MASK]", count)
    for answers in (first, second):
        assert not any(piece.startswith("[") for piece, _ in answers)
        shares = [share for _, share in answers]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-5)
    ids = torch.tensor([tokenizer.encode("the [MASK] sat on [MASK]").ids])
    logits = model(ids).mlm_logits[0, 2]
    assert tokenizer.id_to_token(int(logits[5:].argmax()) + 5) == first[0][0]


@pytest.mark.parametrize("text", ["", "the cat"])
def test_a_text_without_a_mask_is_refused(reader, text):
    with pytest.raises(ValueError, match=r"without \[MASK\]"):
        fill_mask(*reader, text)


def test_a_text_of_10000_words_is_refused_before_it_is_computed(reader):
    with pytest.raises(ValueError, match="reads 1 to 32"):
        fill_mask(*reader, "cat " * 10_000 + "[MASK]")


@pytest.mark.parametrize("text", ["\U0001f600 [MASK]", "中文 [MASK] 字", "שלום [MASK] עולם"])
def test_any_script_is_read(reader, text):
    (answers,) = fill_mask(*reader, text, 3)
    assert len(answers) == 3


def test_a_vocabulary_without_a_special_token_is_named(reader):
    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[MASK]": 3, "cat": 4}
    lacking = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    with pytest.raises(ValueError, match=r"no \[PAD\]"):
        fill_mask(reader[0], lacking, "[MASK]")


def test_whole_words_refuse_flags_that_do_not_fit():
    with pytest.raises(ValueError, match="one flag a token"):
        choose_words(torch.zeros(2, 3), torch.zeros(2, 4))
