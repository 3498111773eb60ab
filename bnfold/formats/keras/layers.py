"""What a Keras layer is to the graph: which of its weights stand in which input slot, and its attributes.

A layer's operator has the layer's class as its type and lists first the tensor the layer is called
on, then its weights in the order of this table; ``""`` stands for one the layer does not have. Further
tensors of the call (a mask, an initial state) come after the weights.

| type                                | inputs                                                |
|-------------------------------------|-------------------------------------------------------|
| Dense, EinsumDense                  | x, kernel, bias                                       |
| Conv{1,2,3}D, Conv{1,2,3}DTranspose | x, kernel, bias                                       |
| DepthwiseConv{1,2}D                 | x, kernel, bias                                       |
| SeparableConv{1,2}D                 | x, depthwise_kernel, pointwise_kernel, bias           |
| BatchNormalization                  | x, gamma, beta, moving_mean, moving_variance          |
| Normalization                       | x, mean, variance (shaped to broadcast against x)     |
| Embedding                           | x, embeddings                                         |
| PReLU                               | x, alpha                                              |
| LSTM, GRU, SimpleRNN                | x, kernel, recurrent_kernel, bias                     |
| Bidirectional of one of these       | x, the three of its forward layer, those of the other |
| MultiHeadAttention                  | query, kernel and bias of query, key, value, output   |
| LayerNormalization, GroupNorm…      | x, gamma, beta                                        |
| RMSNormalization                    | x, scale                                              |
| Add, Concatenate and other joins    | the tensors                                           |
| any other layer                     | its tensors, then all its weights as Keras lists them |

Kernels keep Keras's layout: Dense ``(in, out)``, Conv ``(*window, in / groups, out)``, ConvTranspose
``(*window, out, in)``, DepthwiseConv ``(*window, in, multiplier)``, and the pointwise kernel of a
SeparableConv ``(1, …, in * multiplier, out)``. Output channel ``c * multiplier + m`` of a depthwise
convolution reads input channel ``c``.

Attributes carry the names of the constructor's arguments, with every axis counted from the left and
the batch as axis 0. ``Permute`` has ``perm`` (batch included) beside ``dims``; ``padding`` of
ZeroPadding and ``cropping`` of Cropping are one ``(before, after)`` pair an axis. ``Flatten`` with
``data_format="channels_first"`` moves the channels last before it flattens. ``training=True`` is there
where the call asks for training behaviour even at inference (calling and exporting the model obey
that, ``predict`` overrides it), and ``compute_dtype`` where a layer computes in another dtype than its weights have
(mixed precision). ``tensors`` of a MultiHeadAttention names the argument that each tensor of the call is.
``contains`` of an opaque layer, and of that one, are the types in it whose arithmetic would be known: those that a
TimeDistributed wraps, and Dense of a quantized Dense. ``changes_mask=True`` and
``masked=True`` are those of :mod:`bnfold.formats.keras.masks`.

Operations of ``keras.ops`` called on tensors have the type ``ops.`` and their class, and the attributes that
:mod:`bnfold.formats.keras.operations` gives them; ``ops.Add``,
``ops.Subtract``, ``ops.Multiply`` and ``ops.TrueDivide`` list their two operands, a constant one as a
param.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bnfold.operators.keras.plain_layers import AUGMENTATIONS


@dataclass(frozen=True, slots=True)
class Spec:
    """The facts of one layer class.

    ``weights`` are the attributes under which the layer keeps them, in slot order; ``arguments`` the
    constructor's arguments that become attributes. ``fused`` layers apply ``activation`` to their output.
    """

    weights: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    fused: bool = False


_CONV = ("filters", "kernel_size", "strides", "padding", "dilation_rate", "groups", "data_format", "use_bias")
_TRANSPOSE = (*_CONV[:4], "output_padding", "dilation_rate", "data_format", "use_bias")
_DEPTHWISE = (*_CONV[1:5], "depth_multiplier", "data_format", "use_bias")
_SEPARABLE = ("filters", *_DEPTHWISE)
_POOL = ("pool_size", "strides", "padding", "data_format")
_RECURRENT = ("units", "use_bias", "return_sequences", "return_state", "go_backwards", "stateful")

_PROJECTIONS = ("query", "key", "value", "output")
_CELL = ("kernel", "recurrent_kernel", "bias")

#: Layers whose arithmetic is known, by class name.
SPECS: dict[str, Spec] = {
    "Dense": Spec(("kernel", "bias"), ("units", "use_bias"), fused=True),
    "EinsumDense": Spec(("kernel", "bias"), ("equation", "bias_axes"), fused=True),
    **{f"Conv{n}D": Spec(("kernel", "bias"), _CONV, fused=True) for n in (1, 2, 3)},
    **{f"Conv{n}DTranspose": Spec(("kernel", "bias"), _TRANSPOSE, fused=True) for n in (1, 2, 3)},
    **{f"DepthwiseConv{n}D": Spec(("kernel", "bias"), _DEPTHWISE, fused=True) for n in (1, 2)},
    **{
        f"SeparableConv{n}D": Spec(("depthwise_kernel", "pointwise_kernel", "bias"), _SEPARABLE, fused=True)
        for n in (1, 2)
    },
    "BatchNormalization": Spec(
        ("gamma", "beta", "moving_mean", "moving_variance"),
        ("axis", "momentum", "epsilon", "center", "scale", "synchronized"),
    ),
    "LayerNormalization": Spec(("gamma", "beta"), ("axis", "center", "scale", "rms_scaling")),
    "GroupNormalization": Spec(("gamma", "beta"), ("groups", "axis", "center", "scale")),
    "RMSNormalization": Spec(("scale",), ("axis",)),
    "Normalization": Spec(("mean", "variance"), ("axis", "invert")),
    "Rescaling": Spec((), ("scale", "offset")),
    "Embedding": Spec(("embeddings",), ("input_dim", "output_dim", "mask_zero")),
    "LSTM": Spec(tuple(f"cell.{name}" for name in _CELL), _RECURRENT),
    "GRU": Spec(tuple(f"cell.{name}" for name in _CELL), (*_RECURRENT, "reset_after")),
    "SimpleRNN": Spec(tuple(f"cell.{name}" for name in _CELL), _RECURRENT),
    "MultiHeadAttention": Spec(
        tuple(f"_{part}_dense.{name}" for part in _PROJECTIONS for name in ("kernel", "bias")), ("use_bias",)
    ),
    "Bidirectional": Spec(
        tuple(f"{way}_layer.cell.{name}" for way in ("forward", "backward") for name in _CELL), ("merge_mode",)
    ),
    "Activation": Spec(),
    "ReLU": Spec((), ("max_value", "negative_slope", "threshold")),
    "LeakyReLU": Spec((), ("negative_slope",)),
    "PReLU": Spec(("alpha",), ("shared_axes",)),
    "ELU": Spec((), ("alpha",)),
    "Softmax": Spec((), ("axis",)),
    "Dropout": Spec((), ("rate",)),
    **{f"SpatialDropout{n}D": Spec((), ("rate",)) for n in (1, 2, 3)},
    "GaussianDropout": Spec((), ("rate",)),
    "GaussianNoise": Spec((), ("stddev",)),
    "AlphaDropout": Spec((), ("rate",)),
    "ActivityRegularization": Spec(),
    "Identity": Spec(),
    **{f"ZeroPadding{n}D": Spec((), ("padding", "data_format")) for n in (1, 2, 3)},
    **{f"Cropping{n}D": Spec((), ("cropping", "data_format") if n > 1 else ("cropping",)) for n in (1, 2, 3)},
    **{f"UpSampling{n}D": Spec((), ("size", "data_format", "interpolation")[: (1, 3, 2)[n - 1]]) for n in (1, 2, 3)},
    **{f"{kind}Pooling{n}D": Spec((), _POOL) for kind in ("Max", "Average") for n in (1, 2, 3)},
    **{
        f"Global{kind}Pooling{n}D": Spec((), ("data_format", "keepdims"))
        for kind in ("Max", "Average")
        for n in (1, 2, 3)
    },
    **dict.fromkeys(AUGMENTATIONS, Spec()),
    "Resizing": Spec((), ("height", "width", "interpolation", "pad_to_aspect_ratio", "data_format")),
    "CenterCrop": Spec((), ("height", "width", "data_format")),
    "Flatten": Spec((), ("data_format",)),
    "Reshape": Spec((), ("target_shape",)),
    "Permute": Spec((), ("dims",)),
    "RepeatVector": Spec((), ("n",)),
    "Concatenate": Spec((), ("axis",)),
    "Dot": Spec((), ("axes", "normalize")),
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), Spec()),
}

#: Layers whose weights are those of layers inside, with the types of these that are known.
_PARTS = {
    "Bidirectional": (("forward_layer", "backward_layer"), {"LSTM", "GRU", "SimpleRNN"}),
    "MultiHeadAttention": (tuple(f"_{part}_dense" for part in _PROJECTIONS), {"EinsumDense"}),
}
#: Operations on tensors whose constant operand becomes a param.
BINARY_OPERATIONS = ("Add", "Subtract", "Multiply", "TrueDivide", "Divide")


def type_of(keras: Any, layer: Any) -> str:
    """The operator type of a layer or operation: its class name, unless it computes something else than that says.

    That is so for a custom class of the same name, for a quantized layer or one with a LoRA adapter,
    which have more weights, for one that computes in integers, and for a Bidirectional of other layers than the three
    recurrent ones or a MultiHeadAttention of quantized ones: such types are not in :data:`SPECS`.
    """
    cls = type(layer)
    if not isinstance(layer, keras.layers.Layer):
        return f"ops.{cls.__name__}"
    if cls.__name__ in SPECS and cls is not getattr(keras.layers, cls.__name__, None):
        return f"{cls.__module__}.{cls.__name__}"
    variant = getattr(layer, "quantization_mode", None) or ("lora" if getattr(layer, "lora_enabled", False) else "")
    if not variant and cls.__name__ in SPECS and "float" not in str(layer.compute_dtype):
        variant = layer.compute_dtype
    if cls.__name__ in _PARTS and cls.__name__ in SPECS:
        parts, known = _PARTS[cls.__name__]
        inner = {type_of(keras, getattr(layer, part)) for part in parts}
        variant = variant or ", ".join(sorted(inner - known))
    return f"{cls.__name__}[{variant}]" if variant else cls.__name__


def spec_of(keras: Any, layer: Any) -> Spec | None:
    """The facts of a layer, None for one that has to be treated as opaque."""
    return SPECS.get(type_of(keras, layer))


def contained_types(keras: Any, layer: Any) -> tuple[str, ...]:
    """The types with known arithmetic in an opaque layer: those of the layers that it wraps or holds, and its own
    without a variant (``Dense`` in ``Dense[int8]``).
    """
    if not isinstance(layer, keras.layers.Layer):
        return ()
    held = [type_of(keras, each) for each in layer._flatten_layers()]
    return tuple(sorted({name for each in held if (name := each.partition("[")[0]) in SPECS}))


def weight(layer: Any, attribute: str) -> Any:
    """The variable or array behind one of :attr:`Spec.weights`; None where the layer has none."""
    for part in attribute.split("."):
        layer = getattr(layer, part, None)
    return layer


def activation_name(keras: Any, activation: Any) -> str:
    """How an activation is called; ``"linear"`` for none. A custom function goes by its own name, with its module
    where Keras has an activation of that name.
    """
    if activation is None:
        return "linear"
    if isinstance(activation, keras.layers.Layer):
        return type(activation).__name__
    name = str(getattr(activation, "__name__", type(activation).__name__))
    if getattr(keras.activations, name, activation) is activation:
        return name
    return f"{getattr(activation, '__module__', 'custom')}.{name}"


def attributes_of(layer: Any, spec: Spec, rank: int) -> dict[str, Any]:
    """The attributes of a layer called on a tensor of ``rank`` dimensions (batch included)."""
    attributes: dict[str, Any] = {}
    for name in spec.arguments:
        if not hasattr(layer, name):
            continue  # an argument of newer Keras versions
        value = getattr(layer, name)
        fix = _NORMALISED.get(name)
        attributes[name] = fix(value, rank) if fix is not None else plain(value)
    if "dims" in attributes:
        attributes["perm"] = (0, *attributes["dims"])
    return attributes


def plain(value: Any) -> Any:
    """Lists, also Keras's own, as tuples; numbers and strings as they are."""
    return tuple(plain(item) for item in value) if isinstance(value, list | tuple) else value


def _from_left(axis: Any, rank: int) -> Any:
    if axis is None or isinstance(axis, int):
        return axis if axis is None or axis >= 0 else axis + rank
    return tuple(_from_left(item, rank) for item in axis)


def _pairs(padding: Any, rank: int) -> Any:
    value = plain(padding)
    if isinstance(value, str):
        return value
    return (value,) if value and isinstance(value[0], int) else value


_NORMALISED: dict[str, Callable[[Any, int], Any]] = {
    "axis": _from_left,
    "axes": _from_left,
    "padding": _pairs,
    "cropping": _pairs,
}
