"""Random but plausible BatchNormalization parameters, as training might have left them.

Means and variances are those of the activations on one random batch, disturbed a little; the
gammas lie between 0.5 and 1.5; of "mixed" ones about one in ten is negative and one in twenty tiny, of
those of "both signs" none is tiny.
"""

from __future__ import annotations

from typing import Any

import numpy as np

BATCH = 8
_TINY = 1e-6


#: Which gammas there are.
MIXED, BOTH_SIGNS, POSITIVE = "mixed", "both signs", "positive"


def random_gamma(rng: np.random.Generator, channels: int, kind: str = MIXED) -> np.ndarray:
    """float32 ``[channels]``."""
    gamma = rng.uniform(0.5, 1.5, channels)
    if kind != POSITIVE:
        gamma[rng.random(channels) < 0.1] *= -1
    if kind == MIXED:
        gamma[rng.random(channels) < 0.05] *= _TINY
    return gamma.astype(np.float32)


def disturbed(rng: np.random.Generator, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Statistics of a batch → statistics as a moving average might hold them, float32."""
    mean = mean + 0.1 * np.sqrt(variance) * rng.standard_normal(mean.shape)
    return mean.astype(np.float32), (variance * rng.uniform(0.8, 1.25, variance.shape)).astype(np.float32)


def images(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A float32 batch ``[BATCH, *shape]``: noise, with patches of several sizes added to half of the samples.

    With noise alone the features of all samples would be the same after an average over the picture.
    """
    batch = rng.standard_normal((BATCH, *shape))
    for cells in (1, 4, 16):
        coarse = rng.standard_normal((BATCH // 2, *(cells if size > cells else 1 for size in shape)))
        for axis, size in enumerate(shape, start=1):
            coarse = np.take(coarse, np.arange(size) * coarse.shape[axis] // size, axis=axis)
        batch[::2] += coarse
    return batch.astype(np.float32)


def fill_torch(model: Any, shape: tuple[int, ...], seed: int = 0, kind: str = MIXED) -> None:
    """Give every BN of a ``torch.nn.Module`` its parameters and leave the model in inference mode."""
    import torch

    rng = np.random.default_rng(seed)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for norm in norms:
            # A gamma that starts at zero, the last one of a residual branch, stays small in training.
            small = 0.1 if not norm.weight.any() else 1.0
            norm.weight.copy_(torch.from_numpy(random_gamma(rng, norm.num_features, kind) * small))
            norm.bias.copy_(torch.from_numpy(rng.normal(0, 0.3, norm.num_features).astype(np.float32)))
            norm.momentum = 1.0  # the moving statistics become the batch's
        model.train()
        model(torch.from_numpy(images(rng, shape)))
        model.eval()
        for norm in norms:
            mean, variance = disturbed(rng, norm.running_mean.numpy(), norm.running_var.numpy())
            norm.running_mean.copy_(torch.from_numpy(mean))
            norm.running_var.copy_(torch.from_numpy(variance))


def fill_keras(model: Any, shape: tuple[int, ...], seed: int = 0, kind: str = MIXED) -> None:
    """Give every BN of a ``keras.Model`` its parameters."""
    import keras

    rng = np.random.default_rng(seed)
    layers = model._flatten_layers(include_self=False)
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        if norm.scale:
            norm.gamma.assign(random_gamma(rng, norm.gamma.shape[0], kind))
        if norm.center:
            norm.beta.assign(rng.normal(0, 0.3, norm.beta.shape))
        norm.momentum = 0.0  # the moving statistics become the batch's
    model(images(rng, shape), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        mean, variance = disturbed(rng, norm.moving_mean.numpy(), norm.moving_variance.numpy())
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(variance)
