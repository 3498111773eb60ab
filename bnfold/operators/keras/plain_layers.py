"""Keras's layers without weights of a linear map: normalisation, activations, pooling, padding, reshaping."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from bnfold.affine import Affine, Vector
from bnfold.graph import Shape
from bnfold.operators.answers import Crossing, Lifts, Sunk
from bnfold.operators.arithmetic import rising
from bnfold.operators.axes import Rearrangement, regroup, rename_axes
from bnfold.operators.base import Conditions, Facts, KeepsShape, Node, Role, register
from bnfold.operators.batchnorm import AffineFacts, BatchNorm, BatchNormFacts
from bnfold.operators.convolution import Convolution
from bnfold.operators.keras.layer import DOMAIN, channel_axis, conversion, in_training, shape_of, weight_of
from bnfold.operators.passing import Homogeneous, Transparent
from bnfold.operators.pointwise import of_affine
from bnfold.refusal import Refusal


@register("BatchNormalization", domain=DOMAIN)
class KerasBatchNorm(BatchNormFacts):
    """gamma, beta, moving mean and variance in slots 1 to 4; channels on ``axis``."""

    conditions = Conditions(
        as_affine="in inference mode, with finite parameters, of floating-point data",
    )

    def as_affine(self, node: Node) -> Affine | Refusal:
        return conversion(node) or super().as_affine(node)

    def convolution(self, node: Node) -> Convolution | None:
        affine, axis = self.as_affine(node), node.attr("axis")
        return None if isinstance(affine, Refusal) else of_affine(node, affine, 1.0, axis)

    def batchnorm(self, node: Node) -> BatchNorm | Refusal:
        if node.attr("training"):
            return node.refuse("training-mode", "is called in training mode: it normalises with batch statistics")
        gamma, beta = node.const(1), node.const(2)
        mean, variance = weight_of(node, 3), weight_of(node, 4)
        channels = mean.size
        return BatchNorm(
            np.ones(channels) if gamma is None else gamma.exact(),
            np.zeros(channels) if beta is None else beta.exact(),
            mean.exact(),
            variance.exact(),
            # Added to a variance of float32, or of float64.
            float(np.asarray(node.attr("epsilon"), np.promote_types(mean.dtype, np.float32))),
            node.attr("axis"),
            mean.dtype,
        )


#: Layers that change pictures in training.
AUGMENTATIONS = (
    "AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness", "RandomColorDegeneration", "RandomColorJitter",
    "RandomContrast", "RandomElasticTransform", "RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale",
    "RandomHue", "RandomInvert", "RandomPerspective", "RandomRotation", "RandomSaturation", "RandomSharpness",
    "RandomShear", "RandomTranslation", "RandomZoom",
)  # fmt: skip


@register("Normalization", domain=DOMAIN)
class Normalization(AffineFacts, KeepsShape):
    """``(x - mean) / max(sqrt(variance), 1e-7)``, or the inverse of that."""

    conditions = Conditions(as_affine="of floating-point data; statistics that fit its input")

    def as_affine(self, node: Node) -> Affine | Refusal:
        converted = conversion(node)
        if converted is not None:
            return converted
        middle, root = weight_of(node, 1).exact(), np.maximum(np.sqrt(weight_of(node, 2).exact()), 1e-7)
        scale, shift = (root, middle) if node.attr("invert") else (1.0 / root, -middle / root)
        scale, shift = np.broadcast_arrays(scale, shift)
        shape = shape_of(node.graph, node.op.input(0))
        # A layer that is called twice has the statistics that fitted the input of its first call.
        first = len(shape) - scale.ndim
        if first < 0 or any(size not in (1, own) for size, own in zip(scale.shape, shape[first:], strict=True)):
            return node.refuse("broadcast", "has statistics that do not fit its input")
        return Affine.over(range(first, len(shape)), scale, shift)


@register("Rescaling", domain=DOMAIN)
class Rescaling(AffineFacts, KeepsShape):
    """``scale * x + offset``."""

    conditions = Conditions(as_affine="by one number, of floating-point data")

    def as_affine(self, node: Node) -> Affine | Refusal:
        scale, offset = node.attr("scale"), node.attr("offset")
        if np.ndim(scale) or np.ndim(offset):
            return node.refuse("several-axes", "scales by more than one number")
        return conversion(node) or Affine.of(float(scale), float(offset), None)


@register("Activation", domain=DOMAIN)
class Activation(Homogeneous):
    """By name: linear lets everything pass, the ReLU family scales, the others nothing."""

    conditions = Conditions(cross="linear: everything; ReLU and leaky ReLU: a scale that is nowhere negative")

    def is_final(self, node: Node) -> bool:
        return node.attr("activation") in ("softmax", "log_softmax", "sigmoid")

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        name = node.attr("activation")
        if name == "linear":
            return None
        if name in ("relu", "leaky_relu"):
            return super().allows(node, affine)
        return node.refuse("nonlinear", f"({name}) is nonlinear")

    def value(self, node: Node, numbers: Vector) -> Vector | None:
        function = _FUNCTIONS.get(node.attr("activation"))
        return None if function is None else function(numbers)


#: f of numbers by the name that Keras gives it.
_FUNCTIONS: dict[str, Callable[[Vector], Vector]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "sigmoid": lambda x: 0.5 * (1.0 + np.tanh(0.5 * x)),
    "silu": lambda x: x * 0.5 * (1.0 + np.tanh(0.5 * x)),
    "softplus": lambda x: np.logaddexp(0.0, x),
    "swish": lambda x: x * 0.5 * (1.0 + np.tanh(0.5 * x)),
    "tanh": np.tanh,
}


@register("ReLU", "LeakyReLU", "PReLU", domain=DOMAIN)
class ReluLayer(Homogeneous):
    """A ReLU with an upper bound or another threshold than zero stops everything."""

    conditions = Conditions(cross="without upper bound or threshold: a scale that is nowhere negative")

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        if node.attr("max_value") is not None or node.attr("threshold", 0.0):
            return node.refuse("nonlinear", "is nonlinear")
        return super().allows(node, affine)


@register("ELU", domain=DOMAIN)
class OtherActivation(KeepsShape):
    """Nothing passes."""

    role = Role.ACTIVATION


@register("Softmax", domain=DOMAIN)
class Softmax(OtherActivation):
    """Nothing passes; a classifier ends in it."""

    def is_final(self, node: Node) -> bool:
        return True


@register(
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianDropout", "GaussianNoise",
    "AlphaDropout", domain=DOMAIN,
)  # fmt: skip
class DropoutLayer(Transparent):
    """Nothing at inference, unless the model calls it with ``training=True``."""

    conditions = Conditions(cross="everything, unless it is called in training mode")
    role = Role.DROPOUT

    def drop_rate(self, node: Node) -> float:
        return float(node.attr("rate", 0.5))

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        return in_training(node)


@register("Identity", "ActivityRegularization", domain=DOMAIN)
class IdentityLayer(Transparent):
    """``x``."""

    role = Role.SHAPE
    keeps_axes = True


@register(*AUGMENTATIONS, domain=DOMAIN)
class Augmentation(IdentityLayer):
    """Changes pictures at random in training, and nothing at inference."""

    conditions = Conditions(cross="everything, unless it is called in training mode")

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        return in_training(node)


class ChannelPassing(Facts):
    """Works on the spatial axes alone; what lies along the channels passes if ``allows`` lets it."""

    conditions = Conditions(cross="along the channels, or uniform")
    role = Role.SHAPE

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        return None

    def out_axis(self, node: Node) -> int:
        """The channel axis of the output."""
        return channel_axis(node)

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        moved = self._move(node, affines[0], self.out_axis(node), channel_axis(node))
        return moved if isinstance(moved, Refusal) else [Crossing({0: moved})]

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        moved = self._move(node, affines[0], channel_axis(node), self.out_axis(node))
        return moved if isinstance(moved, Refusal) else Crossing({0: moved})

    def _move(self, node: Node, affine: Affine, start: int, end: int) -> Affine | Refusal:
        refusal = self.allows(node, affine)
        if refusal is not None:
            return refusal
        if affine.axis not in (None, start):
            return node.refuse("other-axis", f"works on axis {affine.axis}, along which the affine runs")
        return affine.on_axis(end)


@register("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D", domain=DOMAIN)
class ZeroPadding(ChannelPassing):
    """Pads with zeros, which no layer can change: a scale passes, a shift does not."""

    conditions = Conditions(cross="along the channels, or uniform; a scale only")
    keeps_axes = True

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        if not affine.is_scale:
            return node.refuse("zero-padding", "pads with zeros, so a shift would be lost at the border")
        return None


@register("Cropping1D", "Cropping2D", "Cropping3D", "UpSampling1D", "UpSampling2D", "UpSampling3D", domain=DOMAIN)
class Spatial(ChannelPassing):
    """Cuts or repeats elements, or interpolates between them with weights that sum to one."""

    keeps_axes = True


@register("CenterCrop", domain=DOMAIN)
class CenterCrop(Spatial):
    """Cuts, or interpolates where there is too little to cut."""


@register("Resizing", domain=DOMAIN)
class Resizing(Spatial):
    """Interpolates, after it has cut, or padded with a number of its own."""

    conditions = Conditions(cross="along the channels, or uniform; without padding")

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        if node.attr("pad_to_aspect_ratio"):
            return node.refuse("padding", "pads with a number of its own")
        return None


@register("AveragePooling1D", "AveragePooling2D", "AveragePooling3D", domain=DOMAIN)
class AveragePooling(ChannelPassing):
    """Keras averages over the elements alone, never over padding."""

    role = Role.POOL


@register("MaxPooling1D", "MaxPooling2D", "MaxPooling3D", domain=DOMAIN)
class MaxPooling(ChannelPassing):
    """Every scale that is not negative passes."""

    conditions = Conditions(cross="along the channels, or uniform; no negative scale")
    role = Role.POOL

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        return rising(node, affine)


class GlobalPooling(ChannelPassing):
    """All spatial axes go, or stay with size 1."""

    role = Role.POOL

    def out_axis(self, node: Node) -> int:
        return channel_axis(node) if node.attr("keepdims") else 1


@register("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D", domain=DOMAIN)
class GlobalAverage(GlobalPooling):
    """The mean of each channel."""


@register("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D", domain=DOMAIN)
class GlobalMax(GlobalPooling):
    """The maximum of each channel."""

    conditions = Conditions(cross="along the channels, or uniform; no negative scale")

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        return rising(node, affine)


@register("Flatten", "Reshape", domain=DOMAIN)
class KerasReshape(Rearrangement):
    """Row-major order stays; a Flatten of ``channels_first`` data moves the channels last before."""

    conditions = Conditions(cross="without mixing the affine's axis with other axes")
    merges_axes = True

    def _flow(self, node: Node) -> tuple[list[int], Shape, Shape]:
        """The input's axes in the order in which its elements are laid out, its shape in that order, the output's."""
        source, target = (shape_of(node.graph, tensor) for tensor in (node.op.input(0), node.op.outputs[0]))
        order = list(range(len(source)))
        if node.attr("data_format") == "channels_first":
            order = order[:1] + order[2:] + order[1:2]
        # The batch by name: two unknown sizes are the same one.
        return order, ("batch", *(source[axis] for axis in order[1:])), ("batch", *target[1:])

    def up(self, node: Node, affine: Affine) -> Affine | Refusal:
        order, source, target = self._flow(node)
        moved = regroup(affine, target, source)
        return self._mixes(node) if moved is None else rename_axes(moved, order)

    def down(self, node: Node, affine: Affine) -> Affine | Refusal:
        order, source, target = self._flow(node)
        places = {axis: place for place, axis in enumerate(order)}
        return regroup(rename_axes(affine, places), source, target) or self._mixes(node)

    @staticmethod
    def _mixes(node: Node) -> Refusal:
        return node.refuse("reshape", "mixes the affine's axis with others in a way that cannot be followed")


@register("Permute", domain=DOMAIN)
class Permute(Rearrangement):
    """Axis ``i`` of the output is axis ``perm[i]`` of the input, the batch included."""

    def up(self, node: Node, affine: Affine) -> Affine | Refusal:
        return rename_axes(affine, node.ints("perm"))

    def down(self, node: Node, affine: Affine) -> Affine | Refusal:
        return rename_axes(affine, {axis: place for place, axis in enumerate(node.ints("perm"))})


@register("RepeatVector", domain=DOMAIN)
class RepeatVector(Rearrangement):
    """[batch, features] to [batch, n, features]."""

    conditions = Conditions(lift="not along the axis that it makes", sink="everything, its axes renamed")

    def up(self, node: Node, affine: Affine) -> Affine | Refusal:
        if any(axis == 1 for axis, _ in affine.axes):
            return node.refuse("new-axis", "makes the affine's axis by repetition")
        return rename_axes(affine, {0: 0, 2: 1})

    def down(self, node: Node, affine: Affine) -> Affine | Refusal:
        return rename_axes(affine, (0, 2))


@register("TimeDistributed.begin", domain=DOMAIN)
class StepsApart(Rearrangement):
    """[batch, steps, …] to [batch · steps, …], before what a TimeDistributed does to each step."""

    conditions = Conditions(cross="along the axes of a step, or uniform")
    is_border = True

    def up(self, node: Node, affine: Affine) -> Affine | Refusal:
        return _shifted(node, affine, 1, 1)

    def down(self, node: Node, affine: Affine) -> Affine | Refusal:
        return _shifted(node, affine, 2, -1)


@register("TimeDistributed.end", domain=DOMAIN)
class StepsTogether(Rearrangement):
    """[batch · steps, …] to [batch, steps, …], behind it."""

    conditions = Conditions(cross="along the axes of a step, or uniform")
    is_border = True

    def up(self, node: Node, affine: Affine) -> Affine | Refusal:
        return _shifted(node, affine, 2, -1)

    def down(self, node: Node, affine: Affine) -> Affine | Refusal:
        return _shifted(node, affine, 1, 1)


def _shifted(node: Node, affine: Affine, first: int, by: int) -> Affine | Refusal:
    """Every axis ``by`` places further; those before ``first`` are of batch and steps."""
    if any(axis < first for axis, _ in affine.axes):
        return node.refuse("steps", "works on each step alone, and the affine runs along the steps")
    return rename_axes(affine, {axis: axis + by for axis, _ in affine.axes})
