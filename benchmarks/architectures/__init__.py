"""Published networks, written compactly: what people export from training and then want to deploy.

``TORCH`` and ``KERAS`` map a name to a :class:`Network`. Nothing is imported before a network is built.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple


class Network(NamedTuple):
    """Where a network is built: ``module.function``, the shape of one input sample, and the signs of its gammas."""

    module: str
    function: str
    shape: tuple[int, ...]
    gamma: str = "mixed"

    def build(self) -> Any:
        """The model: a ``torch.nn.Module`` or a ``keras.Model``, its weights as initialised."""
        return getattr(import_module(f"{__name__}.{self.module}"), self.function)()


def _torch(module: str, function: str, size: int = 224) -> Network:
    return Network(module, function, (3, size, size))


def _keras(function: str, *shape: int) -> Network:
    return Network("keras_networks", function, shape or (224, 224, 3))


TORCH = {
    "levit_128s": _torch("transformers", "levit_128s"),
    "repvgg_a0": _torch("branches", "repvgg_a0"),
    "mobileone_s0": _torch("branches", "mobileone_s0"),
    "fastvit": _torch("branches", "fastvit", 128),
    "acnet": _torch("branches", "acnet", 64),
    "diverse_branch": _torch("branches", "diverse_branch", 64),
    "qarepvgg": _torch("branches", "qarepvgg", 64),
    "resnet18": _torch("residual", "resnet18"),
    "resnet50": _torch("residual", "resnet50"),
    "preact_resnet18": _torch("residual", "preact_resnet18"),
    "dual_path": _torch("concatenation", "dual_path"),
    "xception_preact": _torch("residual", "xception_preact"),
    "se_resnet18": _torch("residual", "se_resnet18"),
    "hrnet": _torch("residual", "hrnet"),
    "densenet": _torch("concatenation", "densenet"),
    "vovnet27": _torch("concatenation", "vovnet27"),
    "inception": _torch("concatenation", "inception"),
    "unet": _torch("concatenation", "unet", 128),
    "mobilenet_v2": _torch("mobile", "mobilenet_v2"),
    "mobilenet_v3": _torch("mobile", "mobilenet_v3"),
    "ghostnet": _torch("mobile", "ghostnet"),
    "shufflenet_v2": _torch("mobile", "shufflenet_v2"),
}

KERAS = {
    "keras_mlp_bn_after": _keras("mlp_bn_after", 28, 28),
    "keras_mobilenet": _keras("mobilenet"),
    "keras_mobilenet_v2": _keras("mobilenet_v2"),
    "keras_mobilenet_v3": _keras("mobilenet_v3"),
    "keras_resnet50": _keras("resnet50"),
    "keras_resnet50_v2": _keras("resnet50_v2"),
    "keras_inception_v3": _keras("inception_v3", 299, 299, 3),
    "keras_xception": _keras("xception", 299, 299, 3),
    "keras_densenet121": _keras("densenet121"),
    "keras_efficientnet_b0": _keras("efficientnet_b0"),
    "keras_efficientnet_v2_b0": _keras("efficientnet_v2_b0"),
    "keras_nasnet_mobile": _keras("nasnet_mobile"),
    "keras_convnext_tiny": _keras("convnext_tiny"),
}

#: Networks whose BN go together with their stream: once more with gammas of both signs (none tiny), and with
#: positive ones.
_STREAMS = (
    "preact_resnet18", "densenet", "dual_path", "xception_preact", "keras_resnet50_v2", "keras_densenet121",
)  # fmt: skip
for _name in _STREAMS:
    for _group in (TORCH, KERAS):
        if _name in _group:
            _group[f"{_name}_signs"] = _group[_name]._replace(gamma="both signs")
            _group[f"{_name}_positive"] = _group[_name]._replace(gamma="positive")
