"""LeViT: attention whose linear layers are followed by BN over reshapes, where LayerNorm would stand elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import conv_bn


class LinearBN(nn.Module):
    """A linear layer on tokens and BN over the flattened batch and tokens."""

    def __init__(self, channels_in: int, channels: int, *, last: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(channels_in, channels, bias=False)
        self.norm = nn.BatchNorm1d(channels)
        if last:  # of a residual branch
            nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return self.norm(x.flatten(0, 1)).reshape_as(x)


class Subsample(nn.Module):
    """Every second token in both directions."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution

    def forward(self, x: Tensor) -> Tensor:
        batch, _, channels = x.shape
        grid = x.view(batch, self.resolution, self.resolution, channels)
        return grid[:, ::2, ::2].reshape(batch, -1, channels)


class Attention(nn.Module):
    """Multi-head attention with a learned bias; with ``stride`` 2 it has a query for every fourth token alone."""

    def __init__(
        self, channels: int, channels_out: int, key: int, heads: int, ratio: int, resolution: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.key, self.value, self.heads, self.scale = key, ratio * key, heads, key**-0.5
        tokens, queries = resolution**2, (-(-resolution // stride)) ** 2
        self.stride = stride
        self.key_value = LinearBN(channels, heads * (key + self.value + (key if stride == 1 else 0)))
        self.query = nn.Sequential(Subsample(resolution), LinearBN(channels, heads * key)) if stride > 1 else None
        self.project = nn.Sequential(nn.Hardswish(), LinearBN(heads * self.value, channels_out, last=stride == 1))
        self.bias = nn.Parameter(torch.randn(heads, queries, tokens) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        parts = self.key_value(x).view(batch, tokens, self.heads, -1)
        if self.query is None:
            query, key, value = parts.split([self.key, self.key, self.value], 3)
        else:
            key, value = parts.split([self.key, self.value], 3)
            query = self.query(x).view(batch, -1, self.heads, self.key)
        query, key, value = query.permute(0, 2, 1, 3), key.permute(0, 2, 3, 1), value.permute(0, 2, 1, 3)
        weights = (query @ key * self.scale + self.bias).softmax(-1)
        return self.project((weights @ value).transpose(1, 2).reshape(batch, -1, self.heads * self.value))


class Added(nn.Module):
    """A residual block."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _feed_forward(channels: int) -> Added:
    return Added(
        nn.Sequential(LinearBN(channels, 2 * channels), nn.Hardswish(), LinearBN(2 * channels, channels, last=True))
    )


class Levit(nn.Module):
    """Graham et al. 2021: a convolutional stem, three stages of attention, a classifier of BN and Linear, twice
    (the second is the distillation head), averaged.
    """

    def __init__(self, widths: tuple[int, ...], heads: tuple[int, ...], depths: tuple[int, ...], key: int) -> None:
        super().__init__()
        self.stem, channels = nn.Sequential(), 3
        for width in (widths[0] // 8, widths[0] // 4, widths[0] // 2, widths[0]):
            self.stem.extend(conv_bn(channels, width, 3, 2))
            if width != widths[0]:
                self.stem.append(nn.Hardswish())
            channels = width
        self.body, resolution = nn.Sequential(), 14
        for stage, (width, count, depth) in enumerate(zip(widths, heads, depths, strict=True)):
            if stage:
                self.body.append(Attention(channels, width, key, channels // key, 4, resolution, stride=2))
                self.body.append(_feed_forward(width))
                channels, resolution = width, -(-resolution // 2)
            for _ in range(depth):
                self.body.append(Added(Attention(width, width, key, count, 2, resolution)))
                self.body.append(_feed_forward(width))
        self.heads = nn.ModuleList(nn.Sequential(nn.BatchNorm1d(channels), nn.Linear(channels, 1000)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x).flatten(2).transpose(1, 2)).mean(1)
        return (self.heads[0](x) + self.heads[1](x)) / 2


def levit_128s() -> nn.Module:
    """The smallest published size."""
    return Levit((128, 256, 384), (4, 6, 8), (2, 3, 4), 16)
