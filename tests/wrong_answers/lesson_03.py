"""Wrong answers of lesson 03 on no list of known mistakes: the cases must reject them too."""

import torch

from course_utils.attention import causal_mask
from course_utils.decoder import DecoderLayer, cached_attention, target_mask
from course_utils.generation import beam_step
from course_utils.training import label_smoothed_cross_entropy, noam_rate


def mask_of_the_first_sentence(token_ids, pad_token_id=0):
    return target_mask(token_ids[:1].expand_as(token_ids), pad_token_id)


def mask_with_a_window(token_ids, pad_token_id=0):
    near = causal_mask(token_ids.size(1)).triu(-2)  # the two tokens before, and itself
    return target_mask(token_ids, pad_token_id) & near


class LayerThatLooksAtTheSourceOfAnother(DecoderLayer):
    def forward(self, x, memory, mask=None, memory_mask=None, need_weights=False):
        return super().forward(x, memory.roll(1, 0), mask, memory_mask, need_weights)


class LayerThatAddsTheLayersInput(DecoderLayer):
    def forward(self, x, memory, mask=None, memory_mask=None, need_weights=False):
        attended, weights = self.attention(x, x, x, mask, need_weights)
        y = self.attention_norm(x + self.dropout(attended))
        looked, cross = self.cross_attention(y, memory, memory, memory_mask, need_weights)
        y = self.cross_norm(x + self.dropout(looked))
        return self.feed_forward_norm(y + self.feed_forward(y)), weights, cross


class LayerWithBothAttentionsSideBySide(DecoderLayer):
    def forward(self, x, memory, mask=None, memory_mask=None, need_weights=False):
        attended, weights = self.attention(x, x, x, mask, need_weights)
        looked, cross = self.cross_attention(x, memory, memory, memory_mask, need_weights)
        x = self.cross_norm(self.attention_norm(x + self.dropout(attended + looked)))
        return self.feed_forward_norm(x + self.feed_forward(x)), weights, cross


def smoothing_of_probabilities(logits, labels, smoothing=0.1, ignore_index=-100):
    probabilities = logits.softmax(-1)
    even = (1 - smoothing) * probabilities + smoothing / logits.size(-1)
    return label_smoothed_cross_entropy(even.log(), labels, 0.0, ignore_index)


def smoothing_by_halves(logits, labels, smoothing=0.1, ignore_index=-100):
    return label_smoothed_cross_entropy(logits, labels, smoothing / 2, ignore_index)


def rate_in_float16(step, hidden_size, warmup_steps=4000):
    return torch.tensor(noam_rate(step, hidden_size, warmup_steps)).half().item()


def rate_without_cap(step, hidden_size, warmup_steps=4000):
    return hidden_size**-0.5 * step**-0.5


def cache_of_the_last_two(attention, x, num_heads, past=None):
    if past is not None:
        past = past[0][:, :, -2:], past[1][:, :, -2:]
    return cached_attention(attention, x, num_heads, past)


def cache_with_an_average(attention, x, num_heads, past=None):
    output, pair = cached_attention(attention, x, num_heads, past)
    return output.mean(1, keepdim=True).expand_as(output), pair


def beams_of_the_batch_together(scores, log_probs):
    batch, beams, vocabulary = log_probs.shape
    flat = (scores[..., None] + log_probs).reshape(1, batch * beams, vocabulary)
    best, parents, tokens = beam_step(torch.zeros(1, batch * beams), flat)
    return tuple(part.view(batch, beams) for part in (best, parents % beams, tokens))


def beams_worst_first(scores, log_probs):
    return tuple(part.flip(-1) for part in beam_step(scores, log_probs))


WRONG = {
    "decoder/target-mask": [mask_of_the_first_sentence, mask_with_a_window],
    "decoder/cross-attention": [
        LayerThatLooksAtTheSourceOfAnother,
        LayerThatAddsTheLayersInput,
        LayerWithBothAttentionsSideBySide,
    ],
    "decoder/label-smoothing": [smoothing_of_probabilities, smoothing_by_halves],
    "decoder/noam-rate": [rate_in_float16, rate_without_cap],
    "decoder/kv-cache": [cache_of_the_last_two, cache_with_an_average],
    "decoder/beam-step": [beams_of_the_batch_together, beams_worst_first],
}
