"""What the torch networks here have in common."""

from __future__ import annotations

from torch import Tensor, nn


def conv_bn(channels_in: int, channels: int, size: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, padded to keep the size at stride 1, and BN."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(channels)
    )


def conv_bn_relu(channels_in: int, channels: int, size: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return conv_bn(channels_in, channels, size, stride, groups).append(nn.ReLU(inplace=True))


def classifier(channels: int, classes: int = 1000) -> nn.Sequential:
    """Global average pool and a linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Residual(nn.Module):
    """``after(body(x) + shortcut(x))``."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut if shortcut is not None else nn.Identity()
        self.after = after if after is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.body(x) + self.shortcut(x))


class SqueezeExcite(nn.Module):
    """Hu et al. 2018: channels weighted by a gate computed from their averages."""

    def __init__(self, channels: int, reduction: int = 4, gate: nn.Module | None = None) -> None:
        super().__init__()
        hidden = max(8, channels // reduction)
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1),
            gate if gate is not None else nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weigh(x)
