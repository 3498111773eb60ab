"""Networks around concatenations: DenseNet, dual path networks, VoVNet, Inception, U-Net."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from .layers import classifier, conv_bn_relu


class DenseLayer(nn.Module):
    """BN, ReLU, 1×1, BN, ReLU, 3×3; the result is appended to the input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet() -> nn.Module:
    """Huang et al. 2016, three blocks of six layers with transitions between."""
    growth, channels = 32, 64
    net = conv_bn_relu(3, channels, 7, 2).append(nn.MaxPool2d(3, 2, 1))
    for block in range(3):
        if block:
            net.extend([nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1, bias=False)])
            net.append(nn.AvgPool2d(2))
            channels //= 2
        for _ in range(6):
            net.append(DenseLayer(channels, growth))
            channels += growth
    return net.extend([nn.BatchNorm2d(channels), nn.ReLU()]).append(classifier(channels))


class DualPath(nn.Module):
    """A pre-activation bottleneck; of its result one part is added to the stream, the other appended."""

    def __init__(self, channels_in: int, width: int, added: int, growth: int, stride: int, first: bool) -> None:
        super().__init__()
        self.added, self.growth = added, growth
        self.old = 2 * growth if first else channels_in - added
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels_in),
            nn.ReLU(),
            nn.Conv2d(channels_in, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, groups=32, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, added + growth, 1, bias=False),
        )
        self.shortcut = None
        if first:
            norm = [nn.BatchNorm2d(channels_in), nn.ReLU()]
            self.shortcut = nn.Sequential(*norm, nn.Conv2d(channels_in, added + 2 * growth, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.shortcut is None else self.shortcut(x)
        new = self.body(x)
        stream, old = torch.split(kept, [self.added, self.old], 1)
        result, grown = torch.split(new, [self.added, self.growth], 1)
        return torch.cat([stream + result, old, grown], 1)


def dual_path() -> nn.Module:
    """Chen et al. 2017, DPN-68 with two blocks in each stage."""
    net = nn.Sequential(nn.Conv2d(3, 10, 3, 2, 1, bias=False), nn.BatchNorm2d(10), nn.ReLU())
    net.append(nn.MaxPool2d(3, 2, 1))
    channels = 10
    for stage, (width, growth) in enumerate(((128, 16), (256, 32), (512, 32), (1024, 64))):
        added = 64 * 2**stage
        for index in range(2):
            first = index == 0
            net.append(DualPath(channels, width, added, growth, 2 if first and stage else 1, first))
            channels = added + 3 * growth if first else channels + growth
    return net.extend([nn.BatchNorm2d(channels), nn.ReLU()]).append(classifier(channels))


class OneShotAggregation(nn.Module):
    """VoVNet's block: a chain of 3×3 convolutions, all of whose results are concatenated once."""

    def __init__(self, channels_in: int, width: int, channels: int, layers: int = 5) -> None:
        super().__init__()
        self.chain = nn.ModuleList(conv_bn_relu(width if i else channels_in, width, 3) for i in range(layers))
        self.join = conv_bn_relu(channels_in + layers * width, channels)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer in self.chain:
            seen.append(layer(seen[-1]))
        return self.join(torch.cat(seen, 1))


def vovnet27() -> nn.Module:
    """Lee et al. 2019, the slim form."""
    net = conv_bn_relu(3, 64, 3, 2).extend(conv_bn_relu(64, 64, 3)).extend(conv_bn_relu(64, 128, 3, 2))
    channels = 128
    for width, out in ((64, 128), (80, 256), (96, 384), (112, 512)):
        if out != 128:
            net.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        net.append(OneShotAggregation(channels, width, out))
        channels = out
    return net.append(classifier(channels))


class Branches(nn.Module):
    """The same input through several branches, concatenated."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def _inception(channels: int, one: int, three: tuple[int, int], double: tuple[int, int], pool: int) -> Branches:
    return Branches(
        conv_bn_relu(channels, one),
        conv_bn_relu(channels, three[0]).extend(conv_bn_relu(three[0], three[1], 3)),
        conv_bn_relu(channels, double[0])
        .extend(conv_bn_relu(*double, 3))
        .extend(conv_bn_relu(double[1], double[1], 3)),
        nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), *conv_bn_relu(channels, pool)),
    )


def inception() -> nn.Module:
    """Ioffe & Szegedy 2015 (BN-Inception), its first modules: the network BN was published with."""
    net = conv_bn_relu(3, 64, 7, 2).append(nn.MaxPool2d(3, 2, 1)).extend(conv_bn_relu(64, 192, 3))
    net.append(nn.MaxPool2d(3, 2, 1))
    net.append(_inception(192, 64, (64, 64), (64, 96), 32)).append(_inception(256, 64, (64, 96), (64, 96), 64))
    net.append(nn.MaxPool2d(3, 2, 1)).append(_inception(320, 224, (64, 96), (96, 128), 128))
    return net.append(_inception(576, 192, (96, 128), (96, 128), 128)).append(classifier(576))


class UpBlock(nn.Module):
    """Transposed convolution with BN, concatenated with the encoder's features, and a convolution."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.ConvTranspose2d(channels_in, channels, 2, 2, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        self.join = conv_bn_relu(2 * channels, channels, 3)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.join(torch.cat([self.up(x), skip], 1))


class UNet(nn.Module):
    """An encoder and a decoder that meet at every resolution."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 256)) -> None:
        super().__init__()
        pairs = list(pairwise((3, *widths)))
        self.down = nn.ModuleList(conv_bn_relu(a, b, 3).extend(conv_bn_relu(b, b, 3)) for a, b in pairs)
        self.up = nn.ModuleList(UpBlock(b, a) for a, b in reversed(pairs[1:]))
        self.head = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for block in self.down:
            x = block(nn.functional.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for block, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            x = block(x, skip)
        return self.head(x)


def unet() -> nn.Module:
    """Ronneberger et al. 2015 with BN, also before the ReLU of its transposed convolutions."""
    return UNet()
