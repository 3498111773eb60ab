"""Keras's linear layers take an affine in, from behind and from ahead; recurrent ones and tables from one side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from keras import Layer, Model, layers
from keras_folding import Folded, assert_gone, assert_stays, fold, functional, positive
from keras_models import randomised, read

from bnfold.affine import Affine
from bnfold.folding import fold_graph
from bnfold.operators import Node, facts_of, linear_bias
from bnfold.operators.convolution import Convolution
from bnfold.operators.keras import KERAS

BN = layers.BatchNormalization
Make = Callable[[], Layer]

#: For each layer the shape of its data, without the batch.
LAYERS: dict[str, tuple[tuple[int, ...], Make]] = {
    "Dense": ((6,), lambda: layers.Dense(5)),
    "Dense of rank 4": ((3, 2, 6), lambda: layers.Dense(5)),
    "Dense without bias": ((6,), lambda: layers.Dense(5, use_bias=False)),
    "EinsumDense": ((3, 6), lambda: layers.EinsumDense("abx,xy->aby", (3, 5), bias_axes="y")),
    "EinsumDense with an ellipsis": ((2, 3, 6), lambda: layers.EinsumDense("...x,xy->...y", 5)),
    "EinsumDense of a turned kernel": ((3, 6), lambda: layers.EinsumDense("abx,yx->aby", (3, 5))),
    "EinsumDense with a wide bias": ((1, 6), lambda: layers.EinsumDense("abx,xy->aby", (1, 5), bias_axes="by")),
    "Conv1D": ((7, 4), lambda: layers.Conv1D(6, 3)),
    "Conv2D": ((6, 7, 4), lambda: layers.Conv2D(6, (3, 2), use_bias=False)),
    "Conv2D with strides": ((7, 7, 4), lambda: layers.Conv2D(6, 3, strides=(2, 1))),
    "Conv2D with dilations": ((7, 7, 4), lambda: layers.Conv2D(6, 3, dilation_rate=2)),
    "Conv2D with groups": ((6, 6, 4), lambda: layers.Conv2D(6, 3, groups=2)),
    "Conv2D of a single tap": ((6, 6, 4), lambda: layers.Conv2D(6, 1, padding="same", strides=2)),
    "Conv3D": ((4, 5, 4, 2), lambda: layers.Conv3D(3, 3)),
    "DepthwiseConv1D": ((7, 4), lambda: layers.DepthwiseConv1D(3, depth_multiplier=2)),
    "DepthwiseConv2D": ((6, 6, 4), lambda: layers.DepthwiseConv2D(3, use_bias=False)),
    "DepthwiseConv2D with a multiplier": ((6, 6, 4), lambda: layers.DepthwiseConv2D(3, depth_multiplier=3)),
    "DepthwiseConv2D of one channel": ((6, 6, 1), lambda: layers.DepthwiseConv2D(3, depth_multiplier=3)),
    "SeparableConv1D": ((7, 4), lambda: layers.SeparableConv1D(5, 3)),
    "SeparableConv2D": ((6, 6, 4), lambda: layers.SeparableConv2D(5, 3, use_bias=False)),
    "SeparableConv2D with a multiplier": ((6, 6, 4), lambda: layers.SeparableConv2D(5, 3, depth_multiplier=2)),
    "Conv2DTranspose of a single tap": ((4, 4, 3), lambda: layers.Conv2DTranspose(5, 1)),
}
#: Those whose output positions do not all see the same elements: no shift before them can go in.
UNEVEN: dict[str, tuple[tuple[int, ...], Make, str]] = {
    "Conv1D same": ((7, 4), lambda: layers.Conv1D(6, 3, padding="same"), "zero-padding"),
    "Conv1D causal": ((7, 4), lambda: layers.Conv1D(6, 3, padding="causal"), "zero-padding"),
    "Conv2D same": ((6, 6, 4), lambda: layers.Conv2D(6, (1, 2), padding="same"), "zero-padding"),
    "Conv3D same": ((4, 4, 4, 2), lambda: layers.Conv3D(3, 3, padding="same", strides=2), "zero-padding"),
    "DepthwiseConv1D same": ((7, 4), lambda: layers.DepthwiseConv1D(3, padding="same"), "zero-padding"),
    "DepthwiseConv2D same": ((6, 6, 4), lambda: layers.DepthwiseConv2D(3, padding="same"), "zero-padding"),
    "SeparableConv1D same": ((7, 4), lambda: layers.SeparableConv1D(5, 3, padding="same"), "zero-padding"),
    "SeparableConv2D same": ((6, 6, 4), lambda: layers.SeparableConv2D(5, 3, padding="same"), "zero-padding"),
    "Conv1DTranspose": ((5, 4), lambda: layers.Conv1DTranspose(5, 3), "uneven-taps"),
    "Conv2DTranspose": ((4, 4, 3), lambda: layers.Conv2DTranspose(5, 2, padding="same"), "uneven-taps"),
    "Conv2DTranspose with a stride": ((4, 4, 3), lambda: layers.Conv2DTranspose(5, 1, strides=2), "uneven-taps"),
    "Conv3DTranspose": ((3, 3, 3, 2), lambda: layers.Conv3DTranspose(2, 2, use_bias=False), "uneven-taps"),
}
EVERY = {**LAYERS, **{name: entry[:2] for name, entry in UNEVEN.items()}}


def behind(shape: tuple[int, ...], make: Make) -> Model:
    """A BN behind the layer, before a sigmoid."""
    return functional(shape, lambda x: layers.Activation("sigmoid")(BN()(make()(x))))


def ahead(shape: tuple[int, ...], make: Make, affine: Make = BN) -> Model:
    """A BN ahead of the layer, behind a tanh."""
    return functional(shape, lambda x: layers.ReLU()(make()(affine()(layers.Activation("tanh")(x)))))


@pytest.mark.parametrize(("shape", "make"), EVERY.values(), ids=EVERY)
def test_a_batchnorm_behind_goes_in(shape, make):
    folded = fold(behind(shape, make))
    assert_gone(folded)
    assert len(folded.types) == 2
    assert folded.kinds == ["backward"]


@pytest.mark.parametrize(("shape", "make"), LAYERS.values(), ids=LAYERS)
def test_a_batchnorm_ahead_goes_in_where_every_position_sees_every_tap(shape, make):
    folded = fold(ahead(shape, make))
    assert_gone(folded)
    assert len(folded.types) == 3
    assert folded.kinds == ["forward"]


@pytest.mark.parametrize(("shape", "make", "code"), UNEVEN.values(), ids=UNEVEN)
def test_a_shift_ahead_stays_where_positions_differ(shape, make, code):
    assert_stays(fold(ahead(shape, make)), code)


@pytest.mark.parametrize(("shape", "make"), EVERY.values(), ids=EVERY)
def test_a_scale_ahead_always_goes_in(shape, make):
    assert_gone(fold(ahead(shape, make, lambda: positive(-3.0))))


def test_no_bias_is_made_where_none_is_needed():
    folded = fold(functional((6,), lambda x: layers.Softmax()(positive()(layers.Dense(5, use_bias=False)(x)))))
    assert not folded.model.layers[1].use_bias


def test_a_bias_is_made_where_one_is_needed():
    folded = fold(behind((6, 6, 4), lambda: layers.SeparableConv2D(5, 3, use_bias=False)))
    assert folded.model.layers[1].use_bias


def test_a_fused_activation_stands_between():
    folded = fold(functional((6,), lambda x: layers.ReLU()(BN()(layers.Dense(5, activation="tanh")(x)))))
    assert_stays(folded, "nonlinear")
    relu = fold(functional((6,), lambda x: layers.Softmax()(positive()(layers.Dense(5, activation="relu")(x)))))
    assert_gone(relu)


@pytest.mark.parametrize(("shape", "make"), LAYERS.values(), ids=LAYERS)
def test_the_bias_of_a_layer(shape, make):
    layer = make()
    graph = read(randomised(functional(shape, layer))).graph
    bias = linear_bias(graph, graph.ops()[0])
    assert (bias is None) == (layer.bias is None)
    if bias is not None:
        np.testing.assert_array_equal(bias.array(), layer.bias)


def vanishing(x):
    """Times a vector of ones, the first three of them too small for a normal float32."""
    factors = np.ones(x.shape[-1], np.float32)
    factors[:3] = 1e-39
    return x * factors


@pytest.mark.parametrize(("shape", "make"), EVERY.values(), ids=EVERY)
def test_an_output_channel_that_would_vanish_stays(shape, make):
    model = functional(shape, lambda x: layers.Activation("sigmoid")(vanishing(make()(x))))
    assert_stays(fold(model), "overflow")


@pytest.mark.parametrize("name", [name for name in EVERY if name.startswith(("Depthwise", "Separable"))])
def test_an_input_channel_that_would_vanish_stays_where_each_has_outputs_of_its_own(name):
    shape, make = EVERY[name]
    assert_stays(fold(ahead(shape, make, lambda: vanishing)), "overflow")


@pytest.mark.parametrize("make", [lambda: layers.Conv1D(6, 3), lambda: layers.GRU(3)])
def test_an_input_channel_may_vanish_beside_others(make):
    folded = fold(ahead((7, 4), make, lambda: vanishing))
    assert folded.kinds == ["forward"]
    assert len(folded.types) == 3


OTHER_AXES = {
    "Dense": ((5, 5), lambda: layers.Dense(5)),
    "Conv2D": ((5, 5, 5), lambda: layers.Conv2D(5, 3, padding="same")),
    "Conv2D, ahead": ((5, 5, 5), lambda: layers.Conv2D(5, 1)),
    "SeparableConv2D": ((5, 5, 5), lambda: layers.SeparableConv2D(5, 1)),
    "EinsumDense": ((5, 5), lambda: layers.EinsumDense("abx,xy->aby", (5, 5))),
    "LSTM": ((5, 5), lambda: layers.LSTM(5, return_sequences=True)),
}


@pytest.mark.parametrize(("shape", "make"), OTHER_AXES.values(), ids=OTHER_AXES)
def test_a_batchnorm_along_another_axis_stays_although_the_sizes_agree(shape, make):
    for model in (
        functional(shape, lambda x: layers.Softmax()(BN(axis=1)(make()(x)))),
        functional(shape, lambda x: layers.ReLU()(make()(BN(axis=1)(layers.Activation("tanh")(x))))),
    ):
        folded = fold(model)
        assert not folded.plan.steps
        assert {"other-axis", "unknown-operator", "no-weights"} & folded.codes


# -- EinsumDense -------------------------------------------------------------------------------------


def test_an_einsum_that_sums_over_another_axis_as_well_stays():
    """Each output element would get the shift once for every entry of that axis."""
    shape, make = (4, 6), lambda: layers.EinsumDense("abx,xy->ay", (5,), bias_axes="y")
    assert_stays(fold(ahead(shape, make)), "einsum")


@pytest.mark.parametrize(
    ("equation", "shape", "output"),
    [
        ("abx,bxy->ay", (4, 6), (5,)),
        ("abx,bxy->aby", (4, 6), (4, 5)),
        ("abx,xy->ayb", (4, 6), (5, 4)),
        ("abx,xy->abxy", (4, 6), (4, 6, 5)),
        ("abx,yyx->aby", (4, 6), (4, 5)),
        ("abx,xx->abx", (4, 6), (4, 6)),
        ("abx,yz->abxyz", (4, 6), (4, 6, 5, 2)),
        ("abx,xb->axb", (4, 6), (6, 4)),
        ("abx,y->abxy", (4, 6), (4, 6, 5)),
    ],
)
def test_other_equations_stay(equation, shape, output):
    folded = fold(behind(shape, lambda: layers.EinsumDense(equation, output)))
    assert_stays(folded, "einsum")


def test_an_einsum_may_have_its_channels_on_any_axis():
    def body(x):
        y = layers.EinsumDense("axb,xy->aby", (3, 5))(BN(axis=1)(layers.Activation("tanh")(x)))
        return layers.ReLU()(BN()(y))

    assert_gone(fold(functional((6, 3), body)), "Activation", "EinsumDense", "ReLU")


@pytest.mark.parametrize("axes", ["b", "by"])
def test_a_bias_along_another_axis_stays_although_the_sizes_agree(axes):
    folded = fold(behind((5, 6), lambda: layers.EinsumDense("abx,xy->aby", (5, 5), bias_axes=axes)))
    assert_stays(folded, "bias-shape")


# -- recurrent layers and tables ---------------------------------------------------------------------

RECURRENT: dict[str, Make] = {
    "LSTM": lambda: layers.LSTM(3),
    "LSTM of sequences": lambda: layers.LSTM(3, return_sequences=True, unit_forget_bias=False),
    "LSTM backward": lambda: layers.LSTM(3, go_backwards=True),
    "GRU": lambda: layers.GRU(3),
    "GRU with its reset before": lambda: layers.GRU(3, reset_after=False),
    "SimpleRNN": lambda: layers.SimpleRNN(3),
    "Bidirectional LSTM": lambda: layers.Bidirectional(layers.LSTM(3)),
    "Bidirectional GRU, summed": lambda: layers.Bidirectional(layers.GRU(3, return_sequences=True), merge_mode="sum"),
    "Bidirectional of two": lambda: layers.Bidirectional(
        layers.LSTM(3), backward_layer=layers.SimpleRNN(3, go_backwards=True)
    ),
}
WITHOUT_BIAS: dict[str, Make] = {
    "LSTM": lambda: layers.LSTM(3, use_bias=False),
    "GRU": lambda: layers.GRU(3, use_bias=False),
    "SimpleRNN": lambda: layers.SimpleRNN(3, use_bias=False),
    "Bidirectional, on one side": lambda: layers.Bidirectional(
        layers.LSTM(3), backward_layer=layers.LSTM(3, use_bias=False, go_backwards=True)
    ),
}


def before_sequence(make: Make, affine: Make = BN) -> Model:
    return functional((4, 5), lambda x: make()(affine()(layers.Activation("tanh")(x))))


@pytest.mark.parametrize("make", RECURRENT.values(), ids=RECURRENT)
def test_a_recurrent_layer_takes_in_what_precedes(make):
    folded = fold(before_sequence(make))
    assert_gone(folded)
    assert len(folded.types) == 2


@pytest.mark.parametrize("make", WITHOUT_BIAS.values(), ids=WITHOUT_BIAS)
def test_a_recurrent_layer_without_bias_takes_in_a_scale_alone(make):
    assert_stays(fold(before_sequence(make)), "no-bias")
    assert_gone(fold(before_sequence(make, positive)))


@pytest.mark.parametrize("make", RECURRENT.values(), ids=RECURRENT)
def test_a_recurrent_layer_takes_in_nothing_that_follows(make):
    folded = fold(functional((4, 5), lambda x: layers.Softmax()(BN()(make()(x)))))
    assert not folded.plan.steps
    assert folded.batchnorms == 1


def test_a_state_is_no_data():
    def body(x):
        state = BN()(layers.Dense(3, activation="tanh")(layers.Flatten()(x)))
        return layers.GRU(3)(x, initial_state=state)

    assert_stays(fold(functional((4, 5), body)), "dynamic-weights")


def test_the_data_goes_in_beside_a_state():
    def body(x):
        state = layers.Dense(3, activation="tanh")(layers.Flatten()(x))
        return layers.GRU(3)(BN()(layers.Activation("tanh")(x)), initial_state=state)

    assert_gone(fold(functional((4, 5), body)))


@pytest.mark.parametrize("affine", [BN, positive], ids=["BN", "Rescaling"])
def test_a_table_takes_in_what_follows(affine):
    def body(x):
        return layers.ReLU()(affine()(layers.Embedding(7, 4)(x)))

    assert_gone(fold(functional((5,), body, dtype="int32")), "Embedding", "ReLU")


def test_no_column_of_a_table_may_vanish():
    def body(x):
        return layers.ReLU()(vanishing(layers.Embedding(7, 4)(x)))

    assert_stays(fold(functional((5,), body, dtype="int32")), "overflow")


def test_a_table_takes_in_nothing_along_another_axis():
    def body(x):
        return layers.ReLU()(BN(axis=1)(layers.Embedding(7, 4)(x)))

    assert_stays(fold(functional((4,), body, dtype="int32")), "other-axis")


# -- shared layers -----------------------------------------------------------------------------------


def test_a_layer_that_is_called_twice_is_changed_for_one_call_alone():
    def body(x):
        dense = layers.Dense(5)
        return layers.Concatenate()([layers.ReLU()(BN()(dense(x))), layers.ReLU()(dense(layers.Softmax()(x)))])

    folded = fold(functional((6,), body))
    assert folded.batchnorms == 0
    assert sum(isinstance(layer, layers.Dense) for layer in folded.model.layers) == 2


def test_a_layer_and_its_batchnorm_called_twice_stay_one_layer():
    def body(x):
        dense, norm = layers.Dense(5), BN()
        return layers.Concatenate()([layers.ReLU()(norm(dense(y))) for y in (x, layers.Softmax()(x))])

    folded = fold(functional((6,), body))
    assert folded.batchnorms == 0
    assert sum(isinstance(layer, layers.Dense) for layer in folded.model.layers) == 1


# -- convolutions as values --------------------------------------------------------------------------


def convolution_of(shape: tuple[int, ...], layer: Layer) -> tuple[Model, Convolution | None]:
    model = randomised(functional(shape, layer))
    graph = read(model).graph
    (op,) = (op for op in graph.ops() if op.type == type(layer).__name__)
    return model, facts_of(op).convolution(Node(graph, op))


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((7, 8, 4), lambda: layers.Conv2D(6, 3)),
        ((7, 8, 4), lambda: layers.Conv2D(6, (2, 3), padding="same", use_bias=False)),
        ((7, 8, 4), lambda: layers.Conv2D(6, 3, padding="same", strides=2)),
        ((7, 8, 4), lambda: layers.Conv2D(6, 3, padding="same", dilation_rate=2, groups=2)),
        ((4, 7, 8), lambda: layers.Conv2D(6, 3, padding="same", strides=(3, 2), data_format="channels_first")),
        ((7, 8, 1), lambda: layers.Conv2D(6, 3, strides=2)),
        ((7, 2), lambda: layers.Conv1D(6, 3, dilation_rate=2)),
        ((6, 6, 6, 2), lambda: layers.Conv3D(4, 2, groups=2)),
        ((7, 8, 4), lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")),
        ((7, 8, 4), lambda: layers.DepthwiseConv2D((1, 3), use_bias=False)),
        ((7, 2), lambda: layers.DepthwiseConv1D(3, depth_multiplier=3)),
    ],
)
def test_a_layer_is_written_as_it_was_read(shape, layer):
    made = layer()
    model, convolution = convolution_of(shape, made)
    assert convolution is not None
    assert convolution.bias.shape == convolution.shape[:1]
    new = KERAS.convolution("x", convolution, "stem")
    assert new is not None
    assert new.type == type(made).__name__
    for name, value in new.attributes.items():
        assert getattr(made, name) == value
    kernel, *bias = (param.array() for param in new.inputs[1:])
    np.testing.assert_array_equal(kernel, model.layers[1].kernel)
    assert len(bias) == made.use_bias
    for values in bias:
        np.testing.assert_array_equal(values, model.layers[1].bias)


@pytest.mark.parametrize(
    ("begins", "slack", "strides", "sizes", "padding"),
    [
        ((1, 1), (0, 0), (1, 1), (8, 8), "same"),
        ((1, 1), (0, 0), (1, 1), (None, None), "same"),
        ((2, 1), (0, 0), (1, 1), (8, 8), None),
        ((1, 0), (0, 0), (1, 1), (8, 8), None),
        ((1, 1), (0, 1), (1, 1), (8, 8), None),
        ((1, 1), (-1, 0), (1, 1), (8, None), None),
        ((1, 1), (0, 1), (1, 1), (8, None), None),
        ((0, 0), (-2, -2), (1, 1), (8, 8), "valid"),
        ((0, 0), (-2, -2), (2, 2), (None, None), "valid"),
        ((0, 0), (0, 0), (1, 1), (8, 8), None),
        ((1, 1), (-1, -1), (1, 1), (8, 8), None),
        # As many positions for either slack: the last zeros are never read.
        ((0, 0), (-1, 0), (2, 2), (8, 8), "same"),
        ((1, 1), (0, 1), (2, 2), (7, 7), "same"),
        ((0, 0), (-1, -1), (3, 3), (8, 8), "same"),
        ((0, 0), (-1, 1), (2, 2), (8, 8), None),
        ((0, 0), (-1, -1), (2, 2), (8, None), None),
    ],
)
def test_a_padding_is_written_if_keras_has_a_name_for_it(begins, slack, strides, sizes, padding):
    _, convolution = convolution_of((8, 8, 3), layers.Conv2D(4, 3))
    assert convolution is not None
    other = replace(convolution, begins=begins, slack=slack, strides=strides, sizes=sizes)
    new = KERAS.convolution("x", other, "stem")
    assert (new is None) == (padding is None)
    assert new is None or new.attributes["padding"] == padding


@pytest.mark.parametrize(
    ("strides", "dilations", "written"), [((2, 1), (1, 1), True), ((1, 1), (1, 2), True), ((2, 1), (1, 2), False)]
)
def test_strides_are_written_beside_no_dilations(strides, dilations, written):
    _, convolution = convolution_of((8, 8, 3), layers.Conv2D(4, 2))
    assert convolution is not None
    slack = tuple(-dilation for dilation in dilations)
    other = replace(convolution, strides=strides, dilations=dilations, slack=slack)
    assert (KERAS.convolution("x", other, "stem") is not None) == written


@pytest.mark.parametrize("layer", [layers.Conv1D(4, 3, padding="causal"), layers.Conv2DTranspose(4, 3)])
def test_other_convolutions_are_no_values(layer):
    assert convolution_of((7, 4) if isinstance(layer, layers.Conv1D) else (7, 7, 4), layer)[1] is None


def test_a_stride_over_an_open_size_pads_by_what_is_not_known():
    assert convolution_of((None, 8, 4), layers.Conv2D(4, 3, padding="same", strides=2))[1] is None
    assert convolution_of((None, 8, 4), layers.Conv2D(4, 3, padding="same"))[1] is not None


# -- channels first ----------------------------------------------------------------------------------

FIRST: dict[str, tuple[tuple[int, int, int], Callable[[str], Layer]]] = {
    "Conv2D": ((4, 6, 7), lambda order: layers.Conv2D(5, (3, 2), groups=1, data_format=order)),
    "DepthwiseConv2D": ((4, 6, 7), lambda order: layers.DepthwiseConv2D(3, depth_multiplier=2, data_format=order)),
    "SeparableConv2D": ((4, 6, 7), lambda order: layers.SeparableConv2D(5, 3, use_bias=False, data_format=order)),
    "Conv2DTranspose": ((4, 6, 7), lambda order: layers.Conv2DTranspose(5, 1, data_format=order)),
}


def both_orders(shape: tuple[int, int, int], make: Callable[[str], Layer], *, after: bool) -> list[Folded]:
    """The same weights with the channels first and last, folded: kernels are laid out alike."""
    folded = []
    for order, axis in (("channels_first", 1), ("channels_last", 3)):
        size = shape if axis == 1 else (*shape[1:], shape[0])

        def body(x, order=order, axis=axis):
            y = make(order)(x) if after else layers.Activation("tanh")(x)
            return layers.ReLU()(BN(axis=axis)(y)) if after else make(order)(BN(axis=axis)(y))

        original = read(randomised(functional(size, body)))
        graph, plan = fold_graph(original.graph)
        folded.append(Folded(original.keras_model, original.with_graph(graph), plan))
    return folded


@pytest.mark.parametrize("after", [True, False], ids=["behind", "ahead"])
@pytest.mark.parametrize(("shape", "make"), FIRST.values(), ids=FIRST)
def test_channels_first_gives_the_weights_of_channels_last(shape, make, after):
    first, last = both_orders(shape, make, after=after)
    assert first.batchnorms == last.batchnorms == 0
    for one, other in zip(first.model.get_weights(), last.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_last_axis_is_not_the_channels_of_channels_first():
    """A BN left at its default axis by mistake normalises the width."""

    def body(x):
        return layers.ReLU()(BN()(layers.Conv2D(5, 3, padding="same", data_format="channels_first")(x)))

    _, plan = fold_graph(read(randomised(functional((5, 5, 5), body))).graph)
    assert not plan.steps
    assert plan.remaining[0].backward.code == "other-axis"


def test_an_affine_in_another_slot_is_refused():
    graph = read(randomised(functional((4, 5), layers.LSTM(3)))).graph
    (op,) = graph.ops()
    refusal = facts_of(op).absorb_input(Node(graph, op), {4: Affine.of(2.0, 0.0, None)})
    assert getattr(refusal, "code", "") == "dynamic-weights"
