"""Networks around sums: ResNet-18, its pre-activation and squeeze-excite forms, HRNet."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from .layers import Residual, SqueezeExcite, classifier, conv_bn, conv_bn_relu

_WIDTHS = (64, 128, 256, 512)


def _basic(channels_in: int, channels: int, stride: int = 1, gate: bool = False) -> Residual:
    body = conv_bn_relu(channels_in, channels, 3, stride).extend(conv_bn(channels, channels, 3))
    if gate:
        body.append(SqueezeExcite(channels, 16))
    shortcut = None if channels_in == channels and stride == 1 else conv_bn(channels_in, channels, 1, stride)
    return Residual(body, shortcut, nn.ReLU(inplace=True))


def _resnet(gate: bool) -> nn.Sequential:
    net = conv_bn_relu(3, 64, 7, 2).append(nn.MaxPool2d(3, 2, 1))
    channels = 64
    for width in _WIDTHS:
        net.append(_basic(channels, width, 1 if width == 64 else 2, gate)).append(_basic(width, width, 1, gate))
        channels = width
    return net.append(classifier(channels))


def _bottleneck(channels_in: int, width: int, stride: int) -> Residual:
    channels = 4 * width
    body = conv_bn_relu(channels_in, width).extend(conv_bn_relu(width, width, 3, stride))
    body.extend(conv_bn(width, channels))
    shortcut = None if channels_in == channels else conv_bn(channels_in, channels, 1, stride)
    return Residual(body, shortcut, nn.ReLU(inplace=True))


def resnet50() -> nn.Module:
    """He et al. 2015, 102 MB in float32."""
    net = conv_bn_relu(3, 64, 7, 2).append(nn.MaxPool2d(3, 2, 1))
    channels = 64
    for width, repeat in zip(_WIDTHS, (3, 4, 6, 3), strict=True):
        for index in range(repeat):
            net.append(_bottleneck(channels, width, 1 if index or width == 64 else 2))
            channels = 4 * width
    return net.append(classifier(channels))


def resnet18() -> nn.Module:
    """He et al. 2015."""
    return _resnet(gate=False)


def se_resnet18() -> nn.Module:
    """Hu et al. 2018."""
    return _resnet(gate=True)


class PreActivation(nn.Module):
    """BN and ReLU before each convolution; the shortcut convolution reads the activated input."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(channels_in), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
        )
        changed = stride != 1 or channels_in != channels
        self.shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False) if changed else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.first(x)
        return self.body(active) + (x if self.shortcut is None else self.shortcut(active))


def preact_resnet18() -> nn.Module:
    """He et al. 2016: ``BN → ReLU → Conv`` on a residual path that is never normalised itself."""
    net = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1))
    channels = 64
    for width in _WIDTHS:
        net.append(PreActivation(channels, width, 1 if width == 64 else 2)).append(PreActivation(width, width, 1))
        channels = width
    return net.append(nn.BatchNorm2d(channels)).append(nn.ReLU()).append(classifier(channels))


class SeparableStack(nn.Module):
    """Three of ``ReLU, depthwise 3×3, 1×1``, each before its BN: what Xception adds to its stream."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(channels_in)
        body = nn.Sequential()
        for index in range(3):
            width = channels_in if index == 0 else channels
            if index:
                body.append(nn.BatchNorm2d(width))
            body.append(nn.ReLU())
            body.append(nn.Conv2d(width, width, 3, stride if index == 2 else 1, 1, groups=width, bias=False))
            body.append(nn.Conv2d(width, channels, 1, bias=False))
        self.body = body
        changed = stride != 1 or channels_in != channels
        self.shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False) if changed else None

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.first(x)) + (x if self.shortcut is None else self.shortcut(x))


def xception_preact() -> nn.Module:
    """Chollet 2017 with the BN before its convolutions; the shortcut convolutions read the stream itself."""
    net = conv_bn_relu(3, 32, 3, 2).append(nn.Conv2d(32, 64, 3, 1, 1, bias=False))
    channels = 64
    for width, stride in ((128, 2), (256, 2), (728, 2), *[(728, 1)] * 4, (1024, 2)):
        net.append(SeparableStack(channels, width, stride))
        channels = width
    return net.extend([nn.BatchNorm2d(channels), nn.ReLU()]).append(classifier(channels))


class Fuse(nn.Module):
    """HRNet's exchange: every resolution receives the sum of all, resampled."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.ModuleList(self._path(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    @staticmethod
    def _path(widths: list[int], source: int, target: int) -> nn.Module:
        if source > target:
            upsample = nn.Upsample(scale_factor=2.0 ** (source - target), mode="nearest")
            return conv_bn(widths[source], widths[target]).append(upsample)
        path = nn.Sequential()
        for step in range(source, target):
            last = step == target - 1
            make = conv_bn if last else conv_bn_relu
            path.append(make(widths[source], widths[target if last else source], 3, 2))
        return path

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        fused = []
        for paths in self.paths:
            total = paths[0](streams[0])
            for path, stream in zip(paths[1:], streams[1:], strict=True):
                total = total + path(stream)
            fused.append(torch.relu(total))
        return fused


class HighResolution(nn.Module):
    """Three stages of parallel resolutions with an exchange after each."""

    def __init__(self, widths: tuple[int, ...] = (18, 36, 72)) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 64, 3, 2).extend(conv_bn_relu(64, widths[0], 3, 2))
        self.entries = nn.ModuleList(conv_bn_relu(before, width, 3, 2) for before, width in pairwise(widths))
        counts = range(2, len(widths) + 1)
        self.streams = nn.ModuleList(
            nn.ModuleList(nn.Sequential(_basic(w, w), _basic(w, w)) for w in widths[:count]) for count in counts
        )
        self.fuses = nn.ModuleList(Fuse(list(widths[:count])) for count in counts)
        self.head = conv_bn_relu(sum(widths), 270).append(nn.Conv2d(270, 19, 1))

    def forward(self, x: Tensor) -> Tensor:
        streams = [self.stem(x)]
        for entry, bodies, fuse in zip(self.entries, self.streams, self.fuses, strict=True):
            streams.append(entry(streams[-1]))
            streams = fuse([body(stream) for body, stream in zip(bodies, streams, strict=True)])
        size = streams[0].shape[2:]
        same = [nn.functional.interpolate(s, size=size, mode="bilinear", align_corners=False) for s in streams[1:]]
        return self.head(torch.cat([streams[0], *same], 1))


def hrnet() -> nn.Module:
    """Wang et al. 2019, W18, shortened to three resolutions of two blocks."""
    return HighResolution()
