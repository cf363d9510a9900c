"""Wrong answers of lesson 02 on no list of known mistakes: the cases must reject them too."""

import torch
from torch import nn

from course_utils.encoder import EncoderLayer
from course_utils.layers import FeedForward, LayerNorm, gelu


def gelu_clipped(x):
    return gelu(x).clamp(min=-0.1)


def gelu_in_half_precision(x):
    return gelu(x.half()).to(x.dtype)


class NormOfEachSentence(nn.LayerNorm):
    """Mean and variance over a sentence's tokens and features together."""

    def __init__(self, hidden_size, eps=1e-12):
        super().__init__(hidden_size, eps=eps)

    def forward(self, x):
        axes = tuple(range(1, x.dim())) or (0,)
        mean = x.mean(axes, keepdim=True)
        variance = x.var(axes, keepdim=True, correction=0)
        return self.weight * (x - mean) / (variance + self.eps).sqrt() + self.bias


class NormWithDetachedStatistics(LayerNorm):
    def forward(self, x):
        mean = x.mean(-1, keepdim=True).detach()
        variance = x.var(-1, keepdim=True, correction=0).detach()
        return self.weight * (x - mean) / (variance + self.eps).sqrt() + self.bias


class FeedForwardWithoutSecondBias(FeedForward):
    def forward(self, x):
        return self.dropout(self.activation(self.expand(x)) @ self.contract.weight.T)


class FeedForwardOfTheMeanToken(FeedForward):
    def forward(self, x):
        return super().forward(x.mean(0, keepdim=True)).expand_as(x)


class LayerThatNormsTheInputToo(EncoderLayer):
    def forward(self, x, mask=None, need_weights=False):
        return super().forward(self.attention_norm(x), mask, need_weights)


class LayerThatScalesTheResidual(EncoderLayer):
    def forward(self, x, mask=None, need_weights=False):
        attended, weights = self.attention(x, x, x, mask, need_weights)
        x = self.attention_norm(0.5 * x + self.dropout(attended))
        return self.feed_forward_norm(0.5 * x + self.feed_forward(x)), weights


class LayerThatAddsInPlace(EncoderLayer):
    def forward(self, x, mask=None, need_weights=False):
        attended, weights = self.attention(x, x, x, mask, need_weights)
        x += self.dropout(attended)
        x = self.attention_norm(x)
        return self.feed_forward_norm(x + self.feed_forward(x)), weights


class LayerThatDropsAfterTheNorm(EncoderLayer):
    def forward(self, x, mask=None, need_weights=False):
        attended, weights = self.attention(x, x, x, mask, need_weights)
        x = self.dropout(self.attention_norm(x + attended))
        return self.feed_forward_norm(x + self.feed_forward(x)), weights


def count_as_float(hidden_size, intermediate_size):
    layer = EncoderLayer(hidden_size, 1, intermediate_size)
    return torch.tensor([parameter.numel() for parameter in layer.parameters()]).sum()


def count_with_a_third_norm(hidden_size, intermediate_size):
    layer = EncoderLayer(hidden_size, 1, intermediate_size)
    return sum(parameter.numel() for parameter in layer.parameters()) + 2 * hidden_size


WRONG = {
    "encoder/gelu": [gelu_clipped, gelu_in_half_precision],
    "encoder/layer-norm": [NormOfEachSentence, NormWithDetachedStatistics],
    "encoder/feed-forward": [FeedForwardWithoutSecondBias, FeedForwardOfTheMeanToken],
    "encoder/encoder-layer": [
        LayerThatNormsTheInputToo,
        LayerThatScalesTheResidual,
        LayerThatAddsInPlace,
        LayerThatDropsAfterTheNorm,
    ],
    "encoder/parameter-count": [count_as_float, count_with_a_third_norm],
}
