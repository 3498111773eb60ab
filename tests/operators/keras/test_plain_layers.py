"""What Keras's normalisations, activations, pools, paddings and reshapes do to an affine."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras import Layer, Model, layers
from keras_folding import assert_gone, assert_stays, fold, functional, positive
from keras_models import randomised, read

from bnfold.affine import Affine
from bnfold.folding import fold_graph
from bnfold.operators import Node, as_affine, facts_of
from bnfold.operators.answers import Crossing
from bnfold.refusal import Refusal

BN = layers.BatchNormalization
IMAGE = (6, 6, 4)
SEQUENCE = (6, 4)
Make = Callable[[], Layer]


def rising() -> Layer:
    """A BN of positive scales: gamma is left at one."""
    return BN(scale=False)


def reader(x) -> Layer:
    """An unpadded linear layer for whatever rank."""
    return {2: lambda: layers.Dense(3), 3: lambda: layers.Conv1D(3, 1)}.get(len(x.shape), lambda: layers.Conv2D(3, 1))()


def ahead(shape: tuple[int, ...], make: Make, affine: Make) -> Model:
    """tanh → affine → the layer → a linear layer: the affine can only go forward."""

    def body(x):
        y = make()(affine()(layers.Activation("tanh")(x)))
        return layers.Softmax()(reader(y)(y))

    return functional(shape, body)


def behind(shape: tuple[int, ...], make: Make, affine: Make) -> Model:
    """A linear layer → the layer → affine → tanh: the affine can only go backward."""

    def body(x):
        source = layers.Conv1D(4, 2) if len(shape) == 2 else layers.Conv2D(4, 2)
        return layers.Activation("tanh")(affine()(make()(source(x))))

    return functional(shape, body)


# -- what everything passes --------------------------------------------------------------------------

PASSING: dict[str, tuple[tuple[int, ...], Make]] = {
    "linear activation": (IMAGE, lambda: layers.Activation("linear")),
    "Dropout": (IMAGE, lambda: layers.Dropout(0.5)),
    "SpatialDropout1D": (SEQUENCE, lambda: layers.SpatialDropout1D(0.5)),
    "SpatialDropout2D": (IMAGE, lambda: layers.SpatialDropout2D(0.5)),
    "GaussianDropout": (IMAGE, lambda: layers.GaussianDropout(0.5)),
    "GaussianNoise": (IMAGE, lambda: layers.GaussianNoise(0.5)),
    "AlphaDropout": (IMAGE, lambda: layers.AlphaDropout(0.5)),
    "Identity": (IMAGE, lambda: layers.Identity()),
    "ActivityRegularization": (IMAGE, lambda: layers.ActivityRegularization(l2=0.1)),
    "Cropping1D": (SEQUENCE, lambda: layers.Cropping1D((1, 2))),
    "Cropping2D": (IMAGE, lambda: layers.Cropping2D(((1, 0), (0, 2)))),
    "UpSampling1D": (SEQUENCE, lambda: layers.UpSampling1D(2)),
    "UpSampling2D": (IMAGE, lambda: layers.UpSampling2D(2)),
    "UpSampling2D bilinear": (IMAGE, lambda: layers.UpSampling2D((2, 3), interpolation="bilinear")),
    "UpSampling2D bicubic": (IMAGE, lambda: layers.UpSampling2D(2, interpolation="bicubic")),
    "UpSampling2D lanczos3": (IMAGE, lambda: layers.UpSampling2D(2, interpolation="lanczos3")),
    "AveragePooling1D": (SEQUENCE, lambda: layers.AveragePooling1D(2)),
    "AveragePooling1D same": (SEQUENCE, lambda: layers.AveragePooling1D(3, 1, padding="same")),
    "AveragePooling2D same": (IMAGE, lambda: layers.AveragePooling2D(3, 2, padding="same")),
    "GlobalAveragePooling1D": (SEQUENCE, lambda: layers.GlobalAveragePooling1D()),
    "GlobalAveragePooling2D": (IMAGE, lambda: layers.GlobalAveragePooling2D()),
    "GlobalAveragePooling2D with its axes kept": (IMAGE, lambda: layers.GlobalAveragePooling2D(keepdims=True)),
    "Resizing": (IMAGE, lambda: layers.Resizing(4, 5)),
    "Resizing after a cut": (IMAGE, lambda: layers.Resizing(4, 5, "nearest", crop_to_aspect_ratio=True)),
    "CenterCrop": (IMAGE, lambda: layers.CenterCrop(3, 4)),
    "CenterCrop of a smaller picture": (IMAGE, lambda: layers.CenterCrop(9, 8)),
    "RandomFlip": (IMAGE, lambda: layers.RandomFlip()),
    "RandomRotation": (IMAGE, lambda: layers.RandomRotation(0.3)),
    "RandomZoom": (IMAGE, lambda: layers.RandomZoom(0.3)),
    "RandomContrast": (IMAGE, lambda: layers.RandomContrast(0.3)),
    "Reshape": (IMAGE, lambda: layers.Reshape((-1, 4))),
    "Reshape that merges space": (IMAGE, lambda: layers.Reshape((1, -1, 4))),
}


@pytest.mark.parametrize(("shape", "make"), PASSING.values(), ids=PASSING)
def test_everything_passes_forward(shape, make):
    assert_gone(fold(ahead(shape, make, BN)))


@pytest.mark.parametrize(("shape", "make"), PASSING.values(), ids=PASSING)
def test_everything_passes_backward(shape, make):
    assert_gone(fold(behind(shape, make, BN)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.AveragePooling3D(2),
        lambda: layers.GlobalAveragePooling3D(),
        lambda: layers.UpSampling3D(2),
        lambda: layers.Cropping3D(1),
    ],
)
def test_everything_passes_in_three_dimensions(make):
    def body(x):
        return layers.Activation("tanh")(BN()(make()(layers.Conv3D(2, 1)(x))))

    assert_gone(fold(functional((4, 4, 4, 2), body)))


# -- what a scale alone passes -----------------------------------------------------------------------

SCALED: dict[str, tuple[tuple[int, ...], Make, str]] = {
    "ZeroPadding1D": (SEQUENCE, lambda: layers.ZeroPadding1D((1, 0)), "zero-padding"),
    "ZeroPadding2D": (IMAGE, lambda: layers.ZeroPadding2D(((0, 1), (2, 0))), "zero-padding"),
    "ReLU": (IMAGE, lambda: layers.ReLU(), "nonlinear"),
    "ReLU with a slope": (IMAGE, lambda: layers.ReLU(negative_slope=0.2), "nonlinear"),
    "LeakyReLU": (IMAGE, lambda: layers.LeakyReLU(0.1), "nonlinear"),
    "PReLU": (IMAGE, lambda: layers.PReLU(shared_axes=(1, 2)), "nonlinear"),
    "relu activation": (IMAGE, lambda: layers.Activation("relu"), "nonlinear"),
    "leaky_relu activation": (IMAGE, lambda: layers.Activation("leaky_relu"), "nonlinear"),
}


@pytest.mark.parametrize("model", [ahead, behind])
@pytest.mark.parametrize(("shape", "make", "code"), SCALED.values(), ids=SCALED)
def test_a_positive_scale_passes_and_a_shift_does_not(shape, make, code, model):
    assert_gone(fold(model(shape, make, positive)))
    assert_stays(fold(model(shape, make, rising)), code)


@pytest.mark.parametrize("model", [ahead, behind])
@pytest.mark.parametrize("name", [name for name in SCALED if "Padding" not in name])
def test_a_negative_scale_passes_no_corner(name, model):
    shape, make, _ = SCALED[name]
    assert_stays(fold(model(shape, make, lambda: positive(-1.5))), "negative-scale")


@pytest.mark.parametrize("model", [ahead, behind])
def test_a_negative_scale_passes_zeros(model):
    assert_gone(fold(model(IMAGE, layers.ZeroPadding2D, lambda: positive(-1.5))))


# -- what a rising affine alone passes ---------------------------------------------------------------

MAXIMA: dict[str, tuple[tuple[int, ...], Make]] = {
    "MaxPooling1D": (SEQUENCE, lambda: layers.MaxPooling1D(2)),
    "MaxPooling2D": (IMAGE, lambda: layers.MaxPooling2D(2)),
    "MaxPooling2D same": (IMAGE, lambda: layers.MaxPooling2D(3, 2, padding="same")),
    "GlobalMaxPooling1D": (SEQUENCE, lambda: layers.GlobalMaxPooling1D()),
    "GlobalMaxPooling2D": (IMAGE, lambda: layers.GlobalMaxPooling2D(keepdims=True)),
}


@pytest.mark.parametrize("model", [ahead, behind])
@pytest.mark.parametrize(("shape", "make"), MAXIMA.values(), ids=MAXIMA)
def test_a_maximum_passes_no_negative_scale(shape, make, model):
    assert_gone(fold(model(shape, make, rising)))
    # The random BN of the tests has scales of either sign.
    assert_stays(fold(model(shape, make, BN)), "negative-scale")


# -- what nothing passes -----------------------------------------------------------------------------


STOPPING: dict[str, Make] = {
    **{name: lambda name=name: layers.Activation(name) for name in ("tanh", "relu6", "silu", "gelu", "hard_sigmoid")},
    "ELU": lambda: layers.ELU(),
    "Softmax": lambda: layers.Softmax(),
    "ReLU with a maximum": lambda: layers.ReLU(max_value=6.0),
    "ReLU with a threshold": lambda: layers.ReLU(threshold=0.5),
    "Bidirectional of cells": lambda: layers.Bidirectional(layers.RNN(layers.LSTMCell(2), return_sequences=True)),
    "UnitNormalization": lambda: layers.UnitNormalization(),
    "RNN": lambda: layers.RNN(layers.GRUCell(4), return_sequences=True),
}


@pytest.mark.parametrize("make", STOPPING.values(), ids=STOPPING)
def test_nothing_passes(make):
    for model in (ahead, behind):
        folded = fold(model(SEQUENCE, make, positive))
        assert not folded.plan.steps
        assert {"nonlinear", "unknown-operator", "no-weights"} & folded.codes


@pytest.mark.parametrize("model", [ahead, behind])
def test_a_resizing_that_pads_stops_everything(model):
    assert_stays(fold(model(IMAGE, lambda: layers.Resizing(3, 8, pad_to_aspect_ratio=True), BN)), "padding")


def test_a_change_of_pictures_in_a_model_called_for_training_stops_everything():
    inner = functional(IMAGE, lambda x: layers.RandomFlip()(x))

    def body(x):
        return BN()(inner(layers.Conv2D(4, 2)(layers.ZeroPadding2D(((0, 1), (0, 1)))(x)), training=True))

    _, plan = fold_graph(read(randomised(functional(IMAGE, body))).graph)
    assert plan.remaining[-1].backward.code == "training-mode"


@pytest.mark.parametrize("name", ["relu", "linear"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_function_that_only_has_the_name_of_an_activation_stops_everything(name, fused):
    def function(x):
        return keras.ops.sin(x)

    function.__name__ = name

    def body(x):
        y = layers.Dense(4, activation=function if fused else None)(x)
        return positive()(y if fused else layers.Activation(function)(y))

    _, plan = fold_graph(read(randomised(functional((4,), body))).graph)
    assert not plan.steps
    assert plan.remaining[0].backward.code == "nonlinear"


@pytest.mark.parametrize("layer", [layers.Dropout(0.5), BN()])
def test_a_layer_called_in_training_mode_stays(layer):
    def body(x):
        return BN()(layer(layers.Dense(4)(x), training=True))

    _, plan = fold_graph(read(randomised(functional((4,), body))).graph)
    assert not plan.steps
    assert plan.remaining[-1].backward.code in ("training-mode", "unknown-operator", "no-weights")


# -- the channel axis --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [lambda: layers.AveragePooling2D(2), layers.GlobalAveragePooling2D, lambda: layers.UpSampling2D(2)]
)
def test_an_affine_along_an_axis_of_space_does_not_pass(make):
    size = (4, 4, 4)
    assert_stays(fold(ahead(size, make, lambda: BN(axis=1))), "other-axis")


ORDERS = {
    "AveragePooling2D": lambda order: layers.AveragePooling2D(2, data_format=order),
    "GlobalAveragePooling2D": lambda order: layers.GlobalAveragePooling2D(data_format=order),
    "GlobalMaxPooling2D": lambda order: layers.GlobalMaxPooling2D(data_format=order, keepdims=True),
    "Flatten": lambda order: layers.Flatten(data_format=order),
    "UpSampling2D": lambda order: layers.UpSampling2D(2, data_format=order),
    "Cropping2D": lambda order: layers.Cropping2D(1, data_format=order),
}


@pytest.mark.parametrize("make", ORDERS.values(), ids=ORDERS)
def test_channels_first_passes_as_channels_last_does(make):
    """Analysis alone: on a CPU TensorFlow pools no channels-first images. The kernels must come out the same."""
    kernels = []
    for order, axis, size in (("channels_first", 1, (4, 6, 6)), ("channels_last", 3, (6, 6, 4))):

        def body(x, order=order, axis=axis):
            y = make(order)(BN(axis=axis, scale=False)(layers.Activation("tanh")(x)))
            return layers.Dense(3)(y) if len(y.shape) == 2 else layers.Conv2D(3, 1, data_format=order)(y)

        original = read(randomised(functional(size, body)))
        graph, plan = fold_graph(original.graph)
        assert [step.kind for step in plan.steps] == ["forward"]
        kernels.append(original.with_graph(graph).keras_model.get_weights())
    for first, last in zip(*kernels, strict=True):
        np.testing.assert_array_equal(first, last)


# -- rearrangements ----------------------------------------------------------------------------------


def test_a_batchnorm_passes_a_flatten_into_a_dense():
    assert_gone(fold(ahead(IMAGE, layers.Flatten, BN)), "Activation", "Flatten", "Dense", "Softmax")


def test_a_batchnorm_of_every_element_does_not_pass_a_flatten_backward():
    assert_stays(fold(behind(IMAGE, layers.Flatten, BN)), "several-axes")


def test_a_flatten_of_channels_first_images_moves_the_channels_last():
    def body(x):
        return layers.Dense(3)(layers.Flatten(data_format="channels_first")(BN(axis=1)(layers.Activation("tanh")(x))))

    assert_gone(fold(functional((4, 3, 2), body)))


@pytest.mark.parametrize(("dims", "axis"), [((2, 1), 1), ((1, 2), 2)])
def test_a_permutation_renames_the_axis(dims, axis):
    def body(x):
        return layers.Activation("tanh")(BN(axis=axis)(layers.Permute(dims)(layers.Conv1D(4, 1)(x))))

    assert_gone(fold(functional((5, 3), body)))


def test_a_permutation_forward():
    def body(x):
        return layers.Conv1D(3, 1)(layers.Permute((2, 1))(BN(axis=1)(layers.Activation("tanh")(x))))

    assert_gone(fold(functional((4, 5), body)))


def test_an_affine_along_a_permuted_axis_is_not_the_channels():
    def body(x):
        return layers.Activation("tanh")(BN(axis=2)(layers.Permute((2, 1))(layers.Conv1D(5, 1)(x))))

    assert_stays(fold(functional((5, 3), body)), "other-axis")


def test_a_repetition_passes_both_ways():
    assert_gone(fold(functional((5,), lambda x: layers.LSTM(2)(layers.RepeatVector(3)(BN()(layers.Softmax()(x)))))))
    assert_gone(fold(functional((5,), lambda x: layers.Softmax()(BN()(layers.RepeatVector(3)(layers.Dense(4)(x)))))))


def test_a_repetition_moves_the_channels_and_not_the_batch():
    graph = read(Model(image := keras.Input(batch_shape=(3, 4)), layers.RepeatVector(5)(image))).graph
    (op,) = graph.ops()
    node, facts = Node(graph, op), facts_of(op)
    for axis, size, moved in ((0, 3, 0), (1, 4, 2)):
        affine = Affine.of(np.arange(size), 0.0, axis)
        there = facts.sink(node, {0: affine})
        assert isinstance(there, Crossing)
        assert there.affines[0].axis == moved
        back = facts.lift(node, there.affines)
        assert isinstance(back, list)
        assert [crossing.affines[0].axis for crossing in back] == [axis]


def test_an_affine_along_the_repetition_stays():
    def body(x):
        return layers.Softmax()(BN(axis=1)(layers.RepeatVector(4)(layers.Dense(4)(x))))

    assert_stays(fold(functional((5,), body)), "new-axis")


def test_a_reshape_that_splits_the_channels_repeats_the_affine():
    def body(x):
        return layers.Dense(3)(layers.Reshape((12,))(BN()(layers.Reshape((3, 4))(layers.Softmax()(x)))))

    assert_gone(fold(functional((12,), body)))


def test_a_reshape_to_other_channels_stays():
    def body(x):
        return layers.Softmax()(BN()(layers.Reshape((2, 6))(layers.Conv1D(4, 1)(x))))

    assert_stays(fold(functional((3, 4), body)), "reshape")
    assert_stays(fold(ahead((3, 4), lambda: layers.Reshape((2, 6)), BN)), "reshape")


# -- the normalisations themselves -------------------------------------------------------------------

KINDS = {
    "plain": {},
    "without gamma": {"scale": False},
    "without beta": {"center": False},
    "without both": {"scale": False, "center": False},
    "with another epsilon": {"epsilon": 0.1},
    "along axis 2": {"axis": 2},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_every_kind_of_batchnorm(options):
    assert_gone(fold(functional((3, 4), lambda x: layers.Softmax()(BN(**options)(layers.Conv1D(4, 1)(x))))))


@pytest.mark.parametrize("axis", [1, 3])
def test_a_batchnorm_of_equal_channels_is_a_convolution_along_its_axis(axis):
    graph = read(functional((4, 5, 4), BN(axis=axis))).graph
    (op,) = graph.ops()
    convolution = facts_of(op).convolution(Node(graph, op))
    assert convolution is not None
    assert (convolution.channel_axis, convolution.channels, convolution.macs) == (axis, (4, 4), 4)


def test_a_batchnorm_in_training_mode_is_no_convolution():
    graph = read(functional((4, 5, 4), lambda x: BN()(x, training=True))).graph
    (op,) = graph.ops()
    assert facts_of(op).convolution(Node(graph, op)) is None


def test_two_affines_stay_where_no_one_layer_computes_both():
    def grid():
        return layers.Normalization(axis=(1, 2), mean=np.arange(12.0).reshape(3, 4), variance=np.full((3, 4), 2.0))

    def twice(make):
        return lambda x: layers.Activation("tanh")(make()(make()(layers.Activation("tanh")(x))))

    assert not fold(functional((3, 4), twice(grid))).plan.steps
    # A BatchNormalization needs to know how many channels there are.
    assert not fold_graph(read(functional((None,), twice(positive))).graph)[1].steps
    assert fold(functional((3,), twice(positive))).types == ["Activation", "BatchNormalization", "Activation"]


def test_two_affines_along_a_batch_of_fixed_size_become_one():
    image = keras.Input(batch_shape=(3, 4))
    folded = fold(Model(image, layers.Softmax()(BN(axis=0)(BN(axis=0)(layers.Softmax()(image))))))
    assert folded.types == ["Softmax", "BatchNormalization", "Softmax"]


def vectors(*values: float) -> np.ndarray:
    return np.asarray(values, np.float32)


NORMALIZATIONS: dict[str, Make] = {
    "last axis": lambda: layers.Normalization(mean=vectors(1, 2, 3, 4), variance=vectors(2, 0.5, 1, 3)),
    "inverse": lambda: layers.Normalization(mean=vectors(1, 2, 3, 4), variance=vectors(2, 0.5, 1, 3), invert=True),
    "no axis": lambda: layers.Normalization(axis=None, mean=2.0, variance=3.0),
    "no variance at all": lambda: layers.Normalization(mean=vectors(0, 0, 0, 0), variance=vectors(1, 1e-20, 1, 1)),
}


@pytest.mark.parametrize("make", NORMALIZATIONS.values(), ids=NORMALIZATIONS)
def test_a_normalization_on_the_input_goes_forward(make):
    assert_gone(fold(functional((4,), lambda x: layers.Dense(3)(make()(x)))), "Dense")


def test_a_normalization_along_several_axes_stays_before_a_dense_and_goes_into_one_behind_a_flatten():
    def make():
        return layers.Normalization(axis=(1, 2), mean=np.arange(12.0).reshape(3, 4), variance=np.ones((3, 4)))

    assert_stays(fold(functional((3, 4), lambda x: layers.Dense(3)(make()(x)))), "several-axes")
    assert_gone(fold(functional((3, 4), lambda x: layers.Dense(3)(layers.Flatten()(make()(x))))))


def test_a_normalization_that_is_called_twice_has_the_statistics_of_its_first_call():
    """They may be those of another shape than a later input has."""
    norm = layers.Normalization(axis=(1, 2), mean=np.arange(12.0).reshape(3, 4), variance=np.ones((3, 4)))
    images = [keras.Input(shape) for shape in ((3, 4), (2, 3, 4), (1, 4), (3, 1), (4,))]
    graph = read(Model(images, [norm(image) for image in images])).graph
    first, second, *others = (as_affine(graph, op) for op in graph.ops() if op.type == "Normalization")
    assert isinstance(first, Affine)
    assert first.axes == ((1, 3), (2, 4))
    assert isinstance(second, Affine)
    assert second.axes == ((2, 3), (3, 4))
    assert [found.code for found in others if isinstance(found, Refusal)] == ["broadcast"] * 3


@pytest.mark.parametrize("offset", [0.0, -1, np.float32(2.5)])
def test_a_rescaling_on_the_input_goes_forward(offset):
    assert_gone(fold(functional(IMAGE, lambda x: layers.Conv2D(3, 2)(layers.Rescaling(0.5, offset)(x)))), "Conv2D")


@pytest.mark.parametrize(
    "make", [lambda: layers.Rescaling([1.0, 2.0, 3.0]), lambda: layers.Rescaling(2.0, [0.0, 1.0, 2.0])]
)
def test_a_rescaling_by_several_numbers_stays(make):
    folded = fold(functional((3,), lambda x: layers.Dense(2)(make()(x))))
    assert not folded.plan.steps


# -- conversions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "affine",
    [lambda: layers.Rescaling(1 / 255), lambda: BN(), lambda: layers.Normalization(mean=3.0, variance=4.0, axis=None)],
)
def test_an_affine_that_makes_numbers_of_integers_stays(affine):
    folded = fold(functional(IMAGE, lambda x: layers.Conv2D(3, 2)(affine()(x)), dtype="uint8"))
    assert not folded.plan.steps
    (op,) = (op for op in folded.after.graph.ops() if op.type != "Conv2D")
    found = as_affine(folded.after.graph, op)
    assert isinstance(found, Refusal)
    assert found.code == "cast"


INTEGERS: dict[str, tuple[Make, Make]] = {
    "Rescaling, which cuts its scale": (lambda: layers.Rescaling(2.5, dtype="int32"), lambda: layers.Dense(3)),
    "BatchNormalization": (lambda: BN(dtype="int32"), lambda: layers.Dense(3)),
    "ReLU": (positive, lambda: layers.ReLU(dtype="int32")),
    "Embedding": (lambda: layers.Embedding(5, 4, "ones", dtype="int32"), lambda: positive(0.5)),
}


@pytest.mark.parametrize(("first", "second"), INTEGERS.values(), ids=INTEGERS)
def test_a_layer_that_computes_in_integers_takes_no_part(first, second):
    model = functional((4,), lambda x: layers.Dense(2)(second()(first()(x))), dtype="int32")
    assert not fold(model).plan.steps


def test_a_table_of_integers_beside_one_of_numbers_takes_nothing_in():
    def body(x):
        tables = [layers.Embedding(5, 4, "ones", dtype=dtype)(x) for dtype in ("int32", "float32")]
        return layers.Softmax()(BN()(layers.Concatenate()(tables)))

    assert_stays(fold(functional((4,), body, dtype="int32")), "unknown-operator")


def test_what_the_model_returns_keeps_its_type():
    def body(x, kind):
        return BN(dtype=kind)(layers.Dense(3, dtype="mixed_float16")(x))

    kept = fold(functional((4,), lambda x: body(x, "float32")))
    assert not kept.plan.steps
    assert_gone(fold(functional((4,), lambda x: body(x, "mixed_float16"))))


def test_a_layer_converts_for_itself_and_an_operation_does_not():
    def dense(x):
        return BN(dtype="float32")(layers.Dense(3, dtype="mixed_float16")(x))

    assert_gone(fold(functional((4,), lambda x: layers.Softmax()(dense(x)))))
    assert not fold(functional((4,), lambda x: keras.ops.tanh(dense(x)))).plan.steps


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "float64"])
def test_other_precisions(policy):
    keras.config.set_dtype_policy(policy)
    try:

        def body(x):
            y = layers.ReLU()(BN()(layers.Dense(5)(x)))
            return layers.Activation("softmax", dtype="float32")(layers.Dense(3)(BN()(y)))

        folded = fold(functional((4,), body))
    finally:
        keras.config.set_dtype_policy("float32")
    assert_gone(folded)
    assert {layer.dtype_policy.name for layer in folded.model.layers[1:-1]} == {policy}


def test_two_batchnorms_become_one_of_their_policy():
    def body(x):
        y = layers.ReLU(dtype="mixed_float16")(x)
        return layers.ReLU()(BN(dtype="mixed_float16")(BN(dtype="mixed_float16")(y)))

    folded = fold(functional((4,), body))
    assert folded.batchnorms == 1
    (norm,) = (layer for layer in folded.model.layers if isinstance(layer, BN))
    assert norm.dtype_policy.name == "mixed_float16"


# -- what a TimeDistributed applies to each step -----------------------------------------------------

EACH: dict[str, tuple[tuple[int, ...], Make]] = {
    "activation": (SEQUENCE, lambda: layers.TimeDistributed(layers.Activation("linear"))),
    "pooling": (IMAGE, lambda: layers.TimeDistributed(layers.AveragePooling1D(2))),
}


@pytest.mark.parametrize(("shape", "make"), EACH.values(), ids=EACH)
def test_what_lies_along_the_axes_of_a_step_passes(shape, make):
    assert_gone(fold(ahead(shape, make, BN)))


@pytest.mark.parametrize("model", [ahead, behind])
def test_what_lies_along_the_steps_does_not_pass(model):
    folded = fold(model(SEQUENCE, lambda: layers.TimeDistributed(layers.Identity()), lambda: BN(axis=1)))
    assert_stays(folded, "steps")
