"""Whole Keras models, folded, written, and read again by Keras alone."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import Input, layers
from keras_folding import Folded, assert_gone, assert_same, assert_stays, fold, functional
from keras_models import batchnorms, conv_bn_relu, feeds, read, shared_tower

from bnfold.folding import FoldStep, fold_graph

BN = layers.BatchNormalization
C = 4


def conv_bn(x, filters: int = C, kernel=3, **options):
    return BN()(layers.Conv2D(filters, kernel, padding=options.pop("padding", "same"), use_bias=False, **options)(x))


def depthwise_bn(x, kernel=3, **options):
    return BN()(layers.DepthwiseConv2D(kernel, padding="same", use_bias=False, **options)(x))


def image_model(body, size=(8, 8)) -> keras.Model:
    return functional((*size, C), body)


# -- branches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (None, None)], ids=["static", "open"])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_repvgg_block_becomes_one_layer(groups, size):
    def body(x):
        branches = [conv_bn(x, groups=groups), conv_bn(x, kernel=1, groups=groups), BN()(x)]
        return layers.ReLU()(layers.Add()(branches))

    # The shape of the feeds has to be known, that of the model need not.
    image = Input((*size, C), name="image")
    model = keras.Model(image, body(image))
    if size == (8, 8):
        folded = fold(model)
        assert_gone(folded, "Conv2D", "ReLU")
        assert folded.kinds.count("branch") == 1
        return
    graph, _ = fold_graph(read(model).graph)
    assert [op.type for op in graph.ops()] == ["Conv2D", "ReLU"]


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_a_repvgg_block_with_a_stride_becomes_one_layer(size):
    def body(x):
        return layers.ReLU()(layers.Add()([conv_bn(x, 6, strides=2), conv_bn(x, 6, 1, strides=2)]))

    folded = fold(image_model(body, size))
    assert_gone(folded, "Conv2D", "ReLU")
    assert folded.model.layers[1].padding == "same"


def test_a_mobileone_block_becomes_one_depthwise_and_one_pointwise_layer():
    def body(x):
        x = layers.ReLU()(layers.Add()([*(depthwise_bn(x) for _ in range(3)), depthwise_bn(x, 1), BN()(x)]))
        return layers.ReLU()(layers.Add()([*(conv_bn(x, kernel=1) for _ in range(3)), BN()(x)]))

    assert_gone(fold(image_model(body)), "DepthwiseConv2D", "ReLU", "Conv2D", "ReLU")


def test_an_asymmetric_block_becomes_one_layer():
    def body(x):
        return layers.ReLU()(layers.Add()([conv_bn(x), conv_bn(x, kernel=(1, 3)), conv_bn(x, kernel=(3, 1))]))

    assert_gone(fold(image_model(body)), "Conv2D", "ReLU")


@pytest.mark.parametrize(
    ("shape", "make"),
    [
        ((8, C), lambda: layers.Conv1D(C, 3, padding="same")),
        ((8, C), lambda: layers.DepthwiseConv1D(3, padding="same")),
        ((5, 5, 5, C), lambda: layers.Conv3D(C, 3, padding="same")),
        ((8, 8, C), lambda: layers.DepthwiseConv2D((3, 1), padding="same")),
        ((8, 8, C), lambda: layers.Conv2D(C, 3, padding="same", dilation_rate=2)),
        ((8, 8, C), lambda: layers.Conv2D(C, 3, padding="same", groups=2, activation="linear")),
    ],
)
@pytest.mark.parametrize("identity", [lambda: BN(), lambda: layers.Rescaling(0.5, 1.0), lambda: layers.Dropout(0.5)])
def test_an_identity_beside_a_convolution_goes_in(shape, make, identity):
    folded = fold(functional(shape, lambda x: layers.ReLU()(layers.Add()([make()(x), identity()(x)]))))
    assert len(folded.types) == 2
    assert_gone(folded)


def test_a_skip_connection_goes_in():
    folded = fold(image_model(lambda x: layers.ReLU()(layers.Add()([conv_bn(x), x]))))
    assert_gone(folded, "Conv2D", "ReLU")


def test_a_convolution_of_one_group_a_channel_becomes_depthwise():
    folded = fold(
        image_model(lambda x: layers.ReLU()(layers.Add()([layers.Conv2D(C, 3, padding="same", groups=C)(x), x])))
    )
    assert_gone(folded, "DepthwiseConv2D", "ReLU")


@pytest.mark.parametrize("padding", ["causal", "same"])
def test_a_convolution_padded_in_another_way_stays(padding):
    """A causal kernel would need zeros on one side alone, beside a centred one."""

    def body(x):
        other = layers.Conv1D(C, 2, padding=padding)(x)
        return layers.ReLU()(layers.Add()([other, layers.Conv1D(C, 3, padding="same")(x)]))

    folded = fold(functional((8, C), body))
    assert folded.types.count("Conv1D") == (2 if padding == "causal" else 1)


def test_a_convolution_behind_padding_of_its_own_stays():
    def body(x):
        padded = layers.Conv2D(C, 3)(layers.ZeroPadding2D()(x))
        return layers.ReLU()(layers.Add()([padded, layers.Conv2D(C, 1)(x)]))

    assert not fold(image_model(body)).plan.steps


def test_channels_first_branches_become_one_layer_of_channels_first():
    def body(x):
        options = {"padding": "same", "data_format": "channels_first"}
        branches = [layers.Conv2D(C, 3, **options)(x), layers.Conv2D(C, 1, **options)(x), BN(axis=1)(x)]
        return layers.ReLU()(layers.Add()(branches))

    original = read(functional((C, 8, 8), body))
    graph, _ = fold_graph(original.graph)
    assert [op.type for op in graph.ops()] == ["Conv2D", "ReLU"]
    assert original.with_graph(graph).keras_model.layers[1].data_format == "channels_first"


def nested_branch(kernel: int) -> keras.Sequential:
    """conv_bn as a model of its own."""
    return keras.Sequential(
        [Input((8, 8, C)), layers.Conv2D(C, kernel, padding="same", use_bias=False, name="conv"), BN(name="bn")]
    )


def test_branches_that_are_models_merge_into_one_of_them():
    def body(x):
        return layers.ReLU()(layers.Add()([nested_branch(3)(x), nested_branch(1)(x), x]))

    assert_gone(fold(image_model(body)), "Conv2D", "ReLU")


def test_branches_that_are_models_called_twice_merge_for_both_calls():
    def body(x):
        three, one = nested_branch(3), nested_branch(1)
        for _ in range(2):
            x = layers.ReLU()(layers.Add()([three(x), one(x)]))
        return x

    assert_gone(fold(image_model(body)), "Conv2D", "ReLU", "Conv2D", "ReLU")


def test_a_sum_inside_a_model_and_one_around_it_merge():
    image = Input((8, 8, C))
    inner = keras.Model(image, layers.Add()([layers.Conv2D(C, 3, padding="same")(image), image]))
    folded = fold(image_model(lambda x: layers.ReLU()(layers.Add()([inner(x), x]))))
    assert_gone(folded, "Conv2D", "ReLU")


def test_one_tensor_twice_beside_a_convolution():
    folded = fold(image_model(lambda x: layers.ReLU()(layers.Add()([x, x, layers.Conv2D(C, 1)(x)]))))
    assert_gone(folded, "Conv2D", "ReLU")


def test_a_batchnorm_along_another_axis_is_no_branch():
    def body(x):
        return layers.ReLU()(layers.Add()([layers.Conv2D(4, 1)(x), BN(axis=1)(x)]))

    assert_stays(fold(functional((4, 4, 4), body)), "model-input")


def test_signs_and_leftovers():
    def body(x):
        y = layers.Subtract()([conv_bn(x), conv_bn(x, kernel=1)])
        return layers.ReLU()(layers.Add()([y, layers.Activation("sigmoid")(x), BN()(x), layers.Softmax()(x)]))

    folded = fold(image_model(body))
    assert_gone(folded, "Conv2D", "Activation", "Softmax", "Add", "ReLU")


def test_a_subtracted_leftover():
    def body(x):
        y = layers.Subtract()([conv_bn(x), layers.Activation("sigmoid")(x)])
        return layers.ReLU()(layers.Add()([y, conv_bn(x, kernel=1)]))

    assert_gone(fold(image_model(body)), "Conv2D", "Activation", "Subtract", "ReLU")


@pytest.mark.parametrize("inner", [True, False], ids=["outside", "between"])
def test_a_constant_that_is_left_over_stays_with_its_operation(inner):
    constant = np.random.default_rng(0).normal(size=(8, 8, C)).astype(np.float32)

    def body(x):
        a, b = layers.Conv2D(C, 3, padding="same")(x), layers.Conv2D(C, 1)(x)
        return layers.ReLU()((a + b) + constant if inner else (a + constant) + b)

    folded = fold(image_model(body))
    assert folded.types.count("Conv2D") == (1 if inner else 2)


def test_a_leftover_of_another_rank_stays_with_its_operation():
    """``+`` aligns from the right, an Add layer keeps the batch apart."""
    image = Input((5, 3, C), batch_size=3)
    a, b = layers.Conv2D(3, 3, padding="same")(image), layers.Conv2D(3, 1)(image)
    vector = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 1, activation="sigmoid")(image))
    for total, convs in (((a + b) + vector, 2), ((a + vector) + b, 3)):
        folded = fold(keras.Model(image, layers.ReLU()(total)))
        assert folded.types.count("Conv2D") == convs


def test_an_observed_branch_stays():
    image = Input((8, 8, C))
    branch = layers.Conv2D(C, 3, padding="same")(image)
    folded = fold(keras.Model(image, [layers.ReLU()(layers.Add()([branch, layers.Conv2D(C, 1)(image)])), branch]))
    assert not folded.plan.steps


def test_branches_that_compute_in_different_types_stay():
    def body(x):
        half = layers.Conv2D(C, 3, padding="same", dtype="mixed_float16")(x)
        return layers.ReLU()(layers.Add()([half, layers.Conv2D(C, 1)(x)]))

    assert not fold(image_model(body)).plan.steps


def test_a_block_in_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:

        def body(x):
            x = layers.ReLU()(x)
            return layers.ReLU()(layers.Add()([conv_bn(x), conv_bn(x, kernel=1), BN()(x)]))

        folded = fold(image_model(body))
    finally:
        keras.config.set_dtype_policy("float32")
    assert_gone(folded, "ReLU", "Conv2D", "ReLU")
    assert folded.model.layers[2].dtype_policy.name == "mixed_float16"


def test_without_branches_the_layers_stay():
    folded = fold(image_model(lambda x: layers.ReLU()(layers.Add()([conv_bn(x), BN()(x)]))), branches=False)
    assert sorted(folded.types) == ["Add", "BatchNormalization", "Conv2D", "ReLU"]


# -- convolutions in a row ---------------------------------------------------------------------------


@pytest.mark.parametrize("fused", ["linear", "sigmoid"])
def test_two_convolutions_become_one_where_that_is_cheaper(fused):
    folded = fold(image_model(lambda x: layers.Conv2D(C, 3, activation=fused)(layers.Conv2D(30, 1)(x))))
    assert folded.types[0] == "Conv2D"
    assert "Conv2D" not in folded.types[1:]
    assert folded.kinds == ["chain"]


def test_a_layer_that_becomes_another_keeps_its_activation_name_and_trainability():
    def body(x):
        grouped = layers.Conv2D(C, 3, groups=C, activation=lambda y: keras.ops.tanh(y), name="grouped", trainable=False)
        return grouped(layers.DepthwiseConv2D(1)(x))

    folded = fold(image_model(body))
    (layer,) = folded.model.layers[1:]
    assert type(layer) is layers.DepthwiseConv2D
    assert layer.name == "grouped"
    assert not layer.trainable


# -- models ------------------------------------------------------------------------------------------


def test_a_nested_model_is_folded_inside():
    inner = keras.Sequential([Input((6,)), layers.Dense(5, name="d"), BN(name="b"), layers.ReLU()], name="inner")
    folded = fold(functional((6,), lambda x: layers.Dense(3)(inner(x))))
    assert folded.batchnorms == 0
    assert folded.model.get_layer("inner").get_layer("d").use_bias


def test_a_batchnorm_goes_into_a_nested_model_and_out_of_one():
    into = keras.Sequential([Input((6,)), layers.Dense(5)], name="into")
    out = keras.Sequential([Input((5,)), BN(), layers.Softmax()], name="out")
    assert fold(functional((6,), lambda x: layers.ReLU()(BN()(into(x))))).batchnorms == 0
    assert fold(functional((6,), lambda x: out(layers.Dense(5)(x)))).batchnorms == 0


def test_a_nested_model_that_is_one_batchnorm_disappears():
    inner = keras.Sequential([Input((6,)), BN()], name="inner")
    folded = fold(functional((6,), lambda x: layers.Dense(3)(inner(layers.Softmax()(x)))))
    assert [layer.name for layer in folded.model.layers[1:]] == [
        layer.name for layer in folded.before.layers[1:] if layer is not inner
    ]


def test_a_nested_model_called_twice_is_folded_for_both_calls():
    folded = fold(shared_tower())
    assert folded.batchnorms == 0
    assert folded.kinds == ["backward", "backward"]


def test_a_batchnorm_called_twice_folds_where_it_can():
    def body(x):
        norm = BN()
        return layers.Concatenate()([layers.ReLU()(norm(layers.Dense(4)(x))), layers.ReLU()(norm(layers.Softmax()(x)))])

    folded = fold(functional((4,), body))
    assert folded.batchnorms == 1
    assert folded.kinds == ["backward"]


def test_several_outputs_keep_what_they_return():
    image = Input((6,))
    norm = BN()(layers.Dense(5)(image))
    model = keras.Model(image, {"logits": norm, "relu": layers.ReLU()(norm)})
    folded = fold(model)
    assert folded.batchnorms == 0
    assert set(folded.model.output) == {"logits", "relu"}


def test_an_output_before_the_batchnorm_keeps_it():
    image = Input((6,))
    dense = layers.Dense(5)(image)
    assert_stays(fold(keras.Model(image, [dense, layers.Softmax()(BN()(dense))])), "observed")


def test_a_batchnorm_between_input_and_output_stays():
    assert_stays(fold(functional((6,), lambda x: BN()(x))), "model-input")


@pytest.mark.parametrize("place", ["output", "input", "middle"])
def test_a_batchnorm_that_does_nothing_goes(place):
    image = Input((6,))
    norm = BN(epsilon=0.0, name="norm")
    body = {
        "output": lambda x: norm(layers.Softmax()(x)),
        "input": lambda x: norm(x),
        "middle": lambda x: layers.Softmax()(norm(layers.ReLU()(x))),
    }[place]
    model = keras.Model(image, body(image))
    graph, plan = fold_graph(read(model).graph)
    assert [step.kind for step in plan.steps] == ["identity"]
    after = read(model).with_graph(graph).keras_model
    assert batchnorms(after) == 0
    assert_same(model, after, {"x": np.ones((2, 6), np.float32)})


def test_two_batchnorms_in_a_row_become_one():
    folded = fold(functional((6,), lambda x: layers.ReLU()(BN(name="b")(BN(name="a")(layers.ReLU()(x))))))
    assert folded.batchnorms == 1
    assert folded.kinds[0] == "composed"
    fate = folded.plan.fate("b")
    assert fate is not None
    assert not isinstance(fate, FoldStep)
    assert fate.subject == "a"


def test_a_convolution_reaches_over_padding_and_pooling():
    def body(x):
        y = layers.ZeroPadding2D()(layers.Conv2D(C, 3, use_bias=False)(x))
        y = layers.AveragePooling2D(2)(layers.ReLU()(BN()(layers.Conv2D(C, 3)(y))))
        return layers.Dense(3)(layers.GlobalAveragePooling2D()(BN()(y)))

    folded = fold(image_model(body))
    assert folded.batchnorms == 0
    (step,) = (step for step in folded.plan.steps if step.kind == "forward")
    assert len(step.through) == 1


# -- files -------------------------------------------------------------------------------------------


def inception() -> keras.Model:
    """Something of everything: branches, a concatenation, a nested model, a shared layer, two outputs."""
    image = Input((8, 8, 3), name="image")
    x = layers.ReLU()(BN()(layers.Conv2D(C, 3, padding="same", use_bias=False, name="stem")(image)))
    x = layers.ReLU()(layers.Add()([conv_bn(x), conv_bn(x, kernel=1), BN()(x)]))
    x = BN()(layers.Concatenate()([layers.Conv2D(2, 1)(x), layers.SeparableConv2D(3, 3, padding="same")(x)]))
    head = keras.Sequential([Input((5,)), layers.Dense(6), BN(), layers.ReLU(), layers.Dense(2)], name="head")
    pooled = layers.GlobalAveragePooling2D()(layers.Activation("tanh")(x))
    shared = layers.Dense(5, name="shared")
    logits = layers.Average()([head(BN()(pooled)), head(shared(pooled))])
    return keras.Model(image, [logits, layers.Softmax(name="probabilities")(shared(pooled))], name="everything")


@pytest.fixture(scope="module")
def everything() -> Folded:
    return fold(inception())


def test_everything_at_once(everything):
    assert everything.batchnorms == 0
    assert everything.types.count("Add") == 0


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_folded_model_is_read_by_keras_alone(everything, suffix, tmp_path: Path):
    everything.after.save(tmp_path / f"folded{suffix}")
    loaded = keras.models.load_model(tmp_path / f"folded{suffix}", compile=False)
    assert batchnorms(loaded) == 0
    inputs = feeds(read(everything.before))
    assert_same(everything.before, loaded, inputs)
    for expected, actual in zip(
        everything.before.predict(inputs, verbose=0), loaded.predict(inputs, verbose=0), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_folding_without_a_batchnorm_changes_nothing():
    folded = fold(functional((6,), lambda x: layers.Dense(3)(layers.ReLU()(layers.Dense(4)(x)))))
    assert not folded.plan.steps
    assert not folded.plan.remaining


def test_a_plain_network_folds_to_the_end():
    folded = fold(conv_bn_relu())
    assert_gone(folded, "Conv2D", "ReLU", "GlobalAveragePooling2D", "Dense", "Activation")
