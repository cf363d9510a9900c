import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from course_utils.decoder import Transformer
from course_utils.generation import beam_search, beam_step, greedy

SETTINGS = settings(max_examples=20, deadline=None)
PAD, BOS, EOS = 0, 1, 2


class ByTable(nn.Module):
    """Not a network: next-token log-probabilities by what was written, for beams done by hand."""

    pad_token_id, bos_token_id, eos_token_id, max_length = PAD, BOS, EOS, 8

    def __init__(self, chances: dict, vocabulary: int):
        super().__init__()
        self.chances, self.vocabulary = chances, vocabulary

    def start(self, source):
        return Written([() for _ in source])

    def step(self, tokens: Tensor, cache):
        new = [(*past, token) for past, (token,) in zip(cache.rows, tokens.tolist(), strict=True)]
        logits = torch.full((len(new), 1, self.vocabulary), float("-inf"))
        for row, written in enumerate(new):
            for token, chance in self.chances.get(written[1:], {EOS: 1.0}).items():
                logits[row, 0, token] = torch.tensor(chance).log()
        return logits, Written(new)


class Written:
    def __init__(self, rows):
        self.rows = rows

    def select(self, rows):
        return Written([self.rows[row] for row in rows.tolist()])


A, B, X, Y = 3, 4, 5, 6
CHANCES = {(): {A: 0.6, B: 0.4}, (A,): {X: 0.5, Y: 0.5}, (B,): {X: 0.9, Y: 0.1}}


def model_of(seed: int, layers: int = 2, scale: float = 3.0) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(9, 7, layers, 16, 2, 32, max_length=10, dropout=0.0).eval()
    with torch.no_grad():  # clear preferences, so that hypotheses differ and some end early
        model.target_embedding.table.weight.mul_(scale)
    return model


@SETTINGS
@given(seed=st.integers(0, 9999), batch=st.integers(1, 4), layers=st.integers(1, 2))
def test_cache_writes_the_same_tokens_as_no_cache(seed, batch, layers):
    model = model_of(seed, layers)
    source = torch.randint(3, 9, (batch, 5))
    assert torch.equal(greedy(model, source), greedy(model, source, use_cache=False))


@SETTINGS
@given(seed=st.integers(0, 9999))
def test_one_beam_is_greedy(seed):
    model, source = model_of(seed), torch.randint(3, 9, (3, 5))
    tokens, _ = beam_search(model, source, beams=1)
    assert torch.equal(tokens, greedy(model, source))


@SETTINGS
@given(seed=st.integers(0, 9999), beams=st.integers(1, 4))
def test_a_beams_score_is_the_log_probability_of_what_it_wrote(seed, beams):
    model, source = model_of(seed), torch.randint(3, 9, (2, 5))
    tokens, scores = beam_search(model, source, beams=beams)
    read = torch.cat([torch.full((2, 1), BOS), tokens[:, :-1]], dim=1)
    with torch.no_grad():
        log_probs = model(source, read).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    expected = (log_probs * (tokens != PAD)).sum(-1)
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)


def test_beam_wider_than_all_sequences_finds_the_likeliest():
    model, source = model_of(5), torch.randint(3, 9, (1, 5))
    tokens, score = beam_search(model, source, beams=7**2, max_length=2)
    best = torch.tensor(float("-inf"))
    with torch.no_grad():
        first = model(source, torch.tensor([[BOS]])).log_softmax(-1)[0, 0]
        best = torch.maximum(best, first[EOS])
        for one, two in itertools.product(range(EOS, 7), repeat=2):
            if one != EOS:
                both = model(source, torch.tensor([[BOS, one]])).log_softmax(-1)[0]
                best = torch.maximum(best, both[0, one] + both[1, two])
    torch.testing.assert_close(score[0], best, atol=1e-5, rtol=1e-5)


def test_beam_by_hand_finds_what_greedy_misses():
    model, source = ByTable(CHANCES, 7), torch.zeros(1, 1, dtype=torch.long)
    assert greedy(model, source).tolist()[0][:1] == [A]  # 0.6 · 0.5 = 0.30
    tokens, score = beam_search(model, source, beams=2)
    assert tokens.tolist() == [[B, X, EOS]]  # 0.4 · 0.9 = 0.36
    assert score.exp().item() == pytest.approx(0.36)


def test_a_finished_hypothesis_keeps_its_score_and_writes_padding():
    chances = {(): {EOS: 0.5, A: 0.5}, (A,): {X: 0.6, Y: 0.4}, (A, X): {EOS: 1.0}}
    model, source = ByTable(chances, 7), torch.zeros(1, 1, dtype=torch.long)
    tokens, score = beam_search(model, source, beams=2)
    assert tokens.tolist() == [[EOS, PAD, PAD]] and score.exp().item() == pytest.approx(0.5)


def test_length_penalty_lets_a_longer_hypothesis_win():
    chances = {(): {EOS: 0.5, A: 0.5}, (A,): {X: 0.9, Y: 0.1}, (A, X): {EOS: 1.0}}
    model, source = ByTable(chances, 7), torch.zeros(1, 1, dtype=torch.long)
    plain, score = beam_search(model, source, beams=2)
    longer, other = beam_search(model, source, beams=2, length_penalty=1.0)
    assert plain.tolist() == [[EOS, PAD, PAD]] and longer.tolist() == [[A, X, EOS]]
    assert other.exp().item() == pytest.approx(0.45) and score > other


def test_each_sentence_of_a_batch_has_its_own_beams():
    model = model_of(3)
    source = torch.randint(3, 9, (4, 5))
    together, scores = beam_search(model, source, beams=3)
    for row in range(4):
        alone, score = beam_search(model, source[row : row + 1], beams=3)
        torch.testing.assert_close(score[0], scores[row], atol=1e-4, rtol=1e-4)
        width = min(alone.size(1), together.size(1))
        assert torch.equal(alone[0, :width], together[row, :width])
        assert not together[row, width:].any() and not alone[0, width:].any()


def test_beam_step_lets_all_hypotheses_compete():
    scores = torch.tensor([[-1.0, -2.0]])
    log_probs = torch.tensor([[[-0.5, -0.7, -9.0], [-9.0, -0.1, -9.0]]])
    best, parents, tokens = beam_step(scores, log_probs)
    torch.testing.assert_close(best, torch.tensor([[-1.5, -1.7]]))
    assert parents.tolist() == [[0, 0]] and tokens.tolist() == [[0, 1]]


def test_rows_end_each_by_itself_and_are_padded():
    chances = {(): {A: 1.0}, (A,): {EOS: 1.0}}
    written = greedy(ByTable(chances, 7), torch.zeros(2, 1, dtype=torch.long))
    assert written.tolist() == [[A, EOS], [A, EOS]]
    model = model_of(11)
    tokens = greedy(model, torch.randint(3, 9, (6, 5)))
    after = (tokens == EOS).cumsum(-1) - (tokens == EOS).long()
    assert not tokens[after > 0].any()


def test_nobody_writes_padding_or_bos():
    model, source = ByTable({(): {PAD: 0.5, BOS: 0.3, A: 0.2}}, 7), torch.zeros(1, 1).long()
    assert greedy(model, source).tolist() == [[A, EOS]]
    tokens, score = beam_search(model, source, beams=2)
    assert tokens.tolist() == [[A, EOS]] and score.exp().item() == pytest.approx(0.2)


@pytest.mark.parametrize("length", [0, 99])
def test_a_length_that_can_not_be_written_is_named(length):
    with pytest.raises(ValueError, match="between 1 and the model's 10"):
        greedy(model_of(0), torch.ones(1, 3, dtype=torch.long), max_length=length)


def test_no_beam_is_named():
    with pytest.raises(ValueError, match="at least 1 beam"):
        beam_search(model_of(0), torch.ones(1, 3, dtype=torch.long), beams=0)
