"""Networks trained with parallel linear branches: RepVGG, MobileOne, FastViT, ACNet, Diverse Branch Block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import Residual, SqueezeExcite, classifier, conv_bn


class Sum(nn.Module):
    """The same input through several branches, added up."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        total = self.branches[0](x)
        for branch in self.branches[1:]:
            total = total + branch(x)
        return total


def _identity(channels_in: int, channels: int, stride: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels)] if channels_in == channels and stride == 1 else []


def _repvgg(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    convolutions = [conv_bn(channels_in, channels, size, stride) for size in (3, 1)]
    return nn.Sequential(Sum(*convolutions, *_identity(channels_in, channels, stride)), nn.ReLU(inplace=True))


def repvgg_a0() -> nn.Module:
    """Ding et al. 2021: 22 blocks of a 3×3, a 1×1 and, where the shape is kept, an identity branch, each with BN."""
    net, channels = nn.Sequential(), 3
    for width, repeat in ((48, 1), (48, 2), (96, 4), (192, 14), (1280, 1)):
        for index in range(repeat):
            net.append(_repvgg(channels, width, 1 if index else 2))
            channels = width
    return net.append(classifier(channels))


def _mobileone(channels_in: int, channels: int, size: int, stride: int, groups: int, copies: int = 4) -> nn.Sequential:
    branches = [conv_bn(channels_in, channels, size, stride, groups) for _ in range(copies)]
    if size > 1:
        branches.append(conv_bn(channels_in, channels, 1, stride, groups))
    return nn.Sequential(Sum(*branches, *_identity(channels_in, channels, stride)), nn.ReLU(inplace=True))


def mobileone_s0() -> nn.Module:
    """Vasu et al. 2022: depthwise and pointwise blocks, each of four copies, a scale branch and an identity."""
    net, channels = _mobileone(3, 48, 3, 2, 1, copies=1), 48
    for width, repeat in ((48, 2), (128, 8), (256, 10), (1024, 1)):
        for index in range(repeat):
            net.append(_mobileone(channels, channels, 3, 1 if index else 2, channels))
            net.append(_mobileone(channels, width, 1, 1, 1))
            channels = width
    return net.append(classifier(channels))


class TokenMixer(nn.Module):
    """RepMixer: ``x + scale · (mixed(x) − BN(x))``, one depthwise convolution in the end."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        depthwise = [conv_bn(channels, channels, size, groups=channels) for size in (3, 1)]
        self.mixer = Sum(*depthwise, nn.BatchNorm2d(channels))
        self.norm = nn.BatchNorm2d(channels)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * (self.mixer(x) - self.norm(x))


class ScaledResidual(Residual):
    """A residual block whose body is scaled per channel."""

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__(body)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.body(x)


def _feed_forward(channels: int) -> nn.Module:
    body = conv_bn(channels, channels, 7, groups=channels)
    body.extend([nn.Conv2d(channels, 3 * channels, 1), nn.GELU(), nn.Conv2d(3 * channels, channels, 1)])
    return ScaledResidual(body, channels)


def _embed(channels_in: int, channels: int) -> nn.Sequential:
    large = Sum(conv_bn(channels_in, channels, 7, 2, channels_in), conv_bn(channels_in, channels, 3, 2, channels_in))
    point = Sum(conv_bn(channels, channels), nn.BatchNorm2d(channels))
    return nn.Sequential(large, nn.GELU(), point, nn.GELU())


def fastvit() -> nn.Module:
    """Vasu et al. 2023, the convolutional stages of T8."""
    net = nn.Sequential(_mobileone(3, 48, 3, 2, 1, 1), _mobileone(48, 48, 3, 2, 48, 1), _mobileone(48, 48, 1, 1, 1, 1))
    channels = 48
    for width in (48, 96, 192):
        if width != channels:
            net.append(_embed(channels, width))
            channels = width
        for _ in range(2):
            net.append(TokenMixer(width)).append(_feed_forward(width))
    last = Sum(conv_bn(channels, 2 * channels, 3, 1, channels), conv_bn(channels, 2 * channels, 1, 1, channels))
    return net.extend([last, SqueezeExcite(2 * channels, 16), nn.GELU()]).append(classifier(2 * channels))


def _strip(channels_in: int, channels: int, height: int, width: int, stride: int = 1) -> nn.Sequential:
    padding = (height // 2, width // 2)
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, (height, width), stride, padding, bias=False), nn.BatchNorm2d(channels)
    )


def acnet() -> nn.Module:
    """Ding et al. 2019: a 3×3, a 1×3 and a 3×1 convolution, each with BN, in every layer."""
    net, channels = nn.Sequential(), 3
    for width, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
        net.append(Sum(*(_strip(channels, width, *size, stride) for size in ((3, 3), (1, 3), (3, 1)))))
        net.append(nn.ReLU(inplace=True))
        channels = width
    return net.append(classifier(channels))


def _diverse(channels_in: int, channels: int) -> nn.Sequential:
    """3×3, 1×1, 1×1 → 3×3 and 1×1 → average pool, each convolution and the pool with its BN.

    DBB pads between a branch's two parts with what the first BN makes of zero: that is the 1×1 convolution padded.
    """

    def padded(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(channels_in, width, 1, padding=1, bias=False), nn.BatchNorm2d(width))

    chain = padded(channels_in).extend([nn.Conv2d(channels_in, channels, 3, bias=False), nn.BatchNorm2d(channels)])
    pooled = padded(channels).extend([nn.AvgPool2d(3, 1), nn.BatchNorm2d(channels)])
    branches = Sum(conv_bn(channels_in, channels, 3), conv_bn(channels_in, channels), chain, pooled)
    return nn.Sequential(branches, nn.ReLU(inplace=True))


def diverse_branch() -> nn.Module:
    """Ding et al. 2021 (DBB), six layers."""
    net, channels = nn.Sequential(), 3
    for width in (32, 32, 64, 64, 128, 128):
        net.append(_diverse(channels, width))
        if width != channels:
            net.append(nn.MaxPool2d(2))
        channels = width
    return net.append(classifier(channels))


def qarepvgg() -> nn.Module:
    """Chu et al. 2022: RepVGG whose 1×1 and identity branches have no BN, and a BN after the sum instead."""
    net, channels = nn.Sequential(), 3
    for width in (48, 48, 96, 96, 192, 192):
        changed = width != channels
        point = nn.Conv2d(channels, width, 1, 2 if changed else 1, bias=False)
        branches = [conv_bn(channels, width, 3, 2 if changed else 1), point, *([] if changed else [nn.Identity()])]
        net.extend([Sum(*branches), nn.BatchNorm2d(width), nn.ReLU(inplace=True)])
        channels = width
    return net.append(classifier(channels))
