"""Lesson 03: writing with a trained Transformer, greedily or with a beam."""

import torch
from torch import Tensor

from course_utils.decoder import Transformer


@torch.no_grad()
def greedy(
    model: Transformer, source: Tensor, max_length: int | None = None, use_cache: bool = True
) -> Tensor:
    """Write the likeliest token, again and again, until every row has written eos.

    source      (batch, source tokens)
    max_length  the most tokens to write, eos included; the model's max_length if None
    use_cache   False reads all that was written anew at every step: same result, more work
    returns     (batch, tokens written), without bos, padding after each row's eos

    The model should be in eval mode.
    """
    longest = _longest(model, max_length)
    tokens = source.new_full((len(source), 1), model.bos_token_id)  # (batch, 1)
    cache = model.start(source) if use_cache else None
    memory = None if use_cache else model.encode(source)
    finished = torch.zeros(len(source), dtype=torch.bool, device=source.device)
    for _ in range(longest):
        if use_cache:
            logits, cache = model.step(tokens[:, -1:], cache)
        else:
            logits, _ = model.decode(tokens, *memory)
        best = _writable(model, logits[:, -1]).argmax(-1)  # (batch,)
        best = best.masked_fill(finished, model.pad_token_id)
        tokens = torch.cat([tokens, best[:, None]], dim=1)
        finished |= best == model.eos_token_id
        if finished.all():
            break
    return tokens[:, 1:]


def beam_step(scores: Tensor, log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the best continuations of all hypotheses of a sentence together.

    scores     (batch, beams), each hypothesis' log-probability so far
    log_probs  (batch, beams, vocabulary), of each next token after each hypothesis
    returns    scores, parents, tokens, each (batch, beams), best first: the new log-probabilities,
               which hypothesis each goes on from, and with which token

    All beams compete: one hypothesis may have several children, another none. (A token of
    log-probability −∞ is chosen only where nothing else is left.)
    """
    beams, vocabulary = log_probs.shape[1:]
    total = scores[:, :, None] + log_probs  # (batch, beams, vocabulary)
    best, index = total.flatten(1).topk(beams)  # (batch, beams · vocabulary) -> (batch, beams)
    return best, index // vocabulary, index % vocabulary


@torch.no_grad()
def beam_search(
    model: Transformer,
    source: Tensor,
    beams: int = 4,
    max_length: int | None = None,
    length_penalty: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Follow the `beams` likeliest hypotheses at once, and return each row's best.

    source          (batch, source tokens)
    length_penalty  α of ((5 + length) / 6)^α, by which a hypothesis' log-probability is divided at
                    the end; 0 compares plain log-probabilities, which favours short ones
    returns         tokens (batch, tokens written), as `greedy`, and their log-probabilities
                    (batch,), not divided

    A hypothesis that has written eos stays as it is and keeps its score. No promise to find the
    likeliest sequence of all; one beam is `greedy`. Raises ValueError for beams below 1.
    Source: Graves 2012, section 2.6; Wu et al. 2016 (GNMT), equation 14 (length penalty).
    """
    if beams < 1:
        raise ValueError(f"a beam search needs at least 1 beam, not {beams}")
    batch, device = len(source), source.device
    rows = torch.arange(batch, device=device)[:, None]  # (batch, 1)
    # every sentence's hypotheses lie next to each other: (batch · beams) rows
    cache = model.start(source).select(rows.expand(batch, beams).flatten())
    tokens = source.new_full((batch, beams, 1), model.bos_token_id)
    # all beams start equal: let only the first one have children, or they would all be copies
    scores = torch.full((batch, beams), float("-inf"), device=device)
    scores[:, 0] = 0.0
    for _ in range(_longest(model, max_length)):
        logits, cache = model.step(tokens[:, :, -1].reshape(-1, 1), cache)
        log_probs = _writable(model, torch.log_softmax(logits[:, -1], -1)).view(batch, beams, -1)
        finished = (tokens == model.eos_token_id).any(-1)  # (batch, beams)
        log_probs[finished] = float("-inf")  # a finished hypothesis has one child: itself, padded
        log_probs[..., model.pad_token_id].masked_fill_(finished, 0.0)
        scores, parents, chosen = beam_step(scores, log_probs)
        tokens = torch.cat([tokens[rows, parents], chosen[:, :, None]], dim=-1)
        cache = cache.select((rows * beams + parents).flatten())
        if (tokens == model.eos_token_id).any(-1).all():
            break
    written = tokens[:, :, 1:]  # (batch, beams, tokens)
    lengths = (written != model.pad_token_id).sum(-1)  # (batch, beams)
    best = (scores / ((5 + lengths) / 6) ** length_penalty).argmax(-1)  # (batch,)
    rows = rows[:, 0]
    return written[rows, best], scores[rows, best]


def _writable(model: Transformer, scores: Tensor) -> Tensor:
    """Scores (..., vocabulary) in which padding and bos can not win: nobody writes them."""
    never = torch.tensor([model.pad_token_id, model.bos_token_id], device=scores.device)
    return scores.index_fill(-1, never, float("-inf"))


def _longest(model: Transformer, max_length: int | None) -> int:
    """The most tokens to write. Raises ValueError for more than the model has positions for."""
    if max_length is None:
        return model.max_length
    if not 1 <= max_length <= model.max_length:
        raise ValueError(
            f"max_length must lie between 1 and the model's {model.max_length}, not {max_length}"
        )
    return max_length
