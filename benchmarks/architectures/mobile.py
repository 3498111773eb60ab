"""Networks for phones: MobileNetV2 and V3, GhostNet, ShuffleNetV2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import Residual, SqueezeExcite, classifier, conv_bn, conv_bn_relu


def _inverted(
    channels_in: int,
    hidden: int,
    channels: int,
    *,
    size: int = 3,
    stride: int = 1,
    gate: bool = False,
    activation: type[nn.Module] = nn.ReLU6,
) -> nn.Module:
    body = nn.Sequential()
    if hidden != channels_in:
        body.extend(conv_bn(channels_in, hidden)).append(activation())
    body.extend(conv_bn(hidden, hidden, size, stride, groups=hidden)).append(activation())
    if gate:
        body.append(SqueezeExcite(hidden, gate=nn.Hardsigmoid()))
    body.extend(conv_bn(hidden, channels))
    return Residual(body) if stride == 1 and channels_in == channels else body


def mobilenet_v2() -> nn.Module:
    """Sandler et al. 2018."""
    net = conv_bn(3, 32, 3, 2).append(nn.ReLU6())
    channels = 32
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for factor, width, repeat, stride in rows:
        for index in range(repeat):
            net.append(_inverted(channels, channels * factor, width, stride=1 if index else stride))
            channels = width
    return net.extend(conv_bn(channels, 1280)).append(nn.ReLU6()).append(classifier(1280))


def mobilenet_v3() -> nn.Module:
    """Howard et al. 2019, small: squeeze-excite and hard swish."""
    net = conv_bn(3, 16, 3, 2).append(nn.Hardswish())
    channels = 16
    relu, swish = nn.ReLU, nn.Hardswish
    rows = [
        (3, 16, 16, True, relu, 2),
        (3, 72, 24, False, relu, 2),
        (3, 88, 24, False, relu, 1),
        (5, 96, 40, True, swish, 2),
        (5, 240, 40, True, swish, 1),
        (5, 240, 40, True, swish, 1),
        (5, 120, 48, True, swish, 1),
        (5, 144, 48, True, swish, 1),
        (5, 288, 96, True, swish, 2),
        (5, 576, 96, True, swish, 1),
        (5, 576, 96, True, swish, 1),
    ]
    for size, hidden, width, gate, activation, stride in rows:
        net.append(_inverted(channels, hidden, width, size=size, stride=stride, gate=gate, activation=activation))
        channels = width
    net.extend(conv_bn(channels, 576)).append(nn.Hardswish())
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(576, 1024), nn.Hardswish(), nn.Dropout(0.2)]
    return net.extend(head).append(nn.Linear(1024, 1000))


class Ghost(nn.Module):
    """Half of the features by a 1×1 convolution, the other half from them by a cheap depthwise one."""

    def __init__(self, channels_in: int, channels: int, relu: bool = True) -> None:
        super().__init__()
        half = channels // 2
        make = conv_bn_relu if relu else conv_bn
        self.primary = make(channels_in, half)
        self.cheap = make(half, half, 3, 1, groups=half)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary(x)
        return torch.cat([primary, self.cheap(primary)], 1)


def _ghost_block(channels_in: int, hidden: int, channels: int, size: int, stride: int, gate: bool) -> nn.Module:
    body = nn.Sequential(Ghost(channels_in, hidden))
    if stride > 1:
        body.append(conv_bn(hidden, hidden, size, stride, groups=hidden))
    if gate:
        body.append(SqueezeExcite(hidden, gate=nn.Hardsigmoid()))
    body.append(Ghost(hidden, channels, relu=False))
    if stride == 1 and channels_in == channels:
        return Residual(body)
    shortcut = conv_bn(channels_in, channels_in, size, stride, groups=channels_in)
    return Residual(body, shortcut.extend(conv_bn(channels_in, channels)))


def ghostnet() -> nn.Module:
    """Han et al. 2019."""
    net = conv_bn_relu(3, 16, 3, 2)
    channels = 16
    rows = [
        (3, 16, 16, False, 1),
        (3, 48, 24, False, 2),
        (3, 72, 24, False, 1),
        (5, 72, 40, True, 2),
        (5, 120, 40, True, 1),
        (3, 240, 80, False, 2),
        (3, 200, 80, False, 1),
        (3, 480, 112, True, 1),
        (5, 672, 160, True, 2),
        (5, 960, 160, True, 1),
    ]
    for size, hidden, width, gate, stride in rows:
        net.append(_ghost_block(channels, hidden, width, size, stride, gate))
        channels = width
    return net.extend(conv_bn_relu(channels, 960)).append(classifier(960))


class Shuffle(nn.Module):
    """ShuffleNetV2's unit: split (or copy) the channels, transform, concatenate and interleave the halves."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        half = channels // 2
        self.split = stride == 1
        source = half if self.split else channels_in
        self.main = nn.Sequential(
            *conv_bn_relu(source, half), *conv_bn(half, half, 3, stride, groups=half), *conv_bn_relu(half, half)
        )
        shortcut = nn.Sequential(*conv_bn(source, source, 3, stride, groups=source), *conv_bn_relu(source, half))
        self.shortcut = nn.Identity() if self.split else shortcut

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1) if self.split else (x, x)
        x = torch.cat([self.shortcut(left), self.main(right)], 1)
        batch, channels, height, width = x.shape
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


def shufflenet_v2() -> nn.Module:
    """Ma et al. 2018, width 1.0."""
    net = conv_bn_relu(3, 24, 3, 2).append(nn.MaxPool2d(3, 2, 1))
    channels = 24
    for width, repeat in ((116, 4), (232, 8), (464, 4)):
        for index in range(repeat):
            net.append(Shuffle(channels, width, 1 if index else 2))
            channels = width
    return net.extend(conv_bn_relu(channels, 1024)).append(classifier(1024))
