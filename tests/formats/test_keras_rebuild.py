"""Keras models written again from changed graphs: what they compute, and what they keep."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import Input, layers
from keras_models import (
    affine,
    batchnorms,
    constant,
    conv_bn_relu,
    feeds,
    folded,
    normalised_config,
    randomised,
    read,
    shared_tower,
)

from bnfold.errors import OutputError, UsageError
from bnfold.folding import fold_graph
from bnfold.graph import Op, Param, Use

FOLDER = Path(__file__).parents[2] / "sample_models"


def check_same(model: keras.Model, *, left: int, tolerance: float = 2e-6) -> keras.Model:
    """Fold the model, compare its predictions with the original's and count the BN that are left."""
    original = read(randomised(model))
    changed = folded(original)
    inputs = feeds(original)
    for expected, actual in zip(original.predict(inputs), changed.predict(inputs), strict=True):
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)
    assert batchnorms(changed.keras_model) == left
    return changed.keras_model


def dense_bn(x, units: int, name: str):
    return layers.BatchNormalization(name=f"{name}_bn")(layers.Dense(units, name=name)(x))


# -- an unchanged graph ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [conv_bn_relu, shared_tower])
def test_a_copied_graph_gives_the_same_model(build: Callable[[], keras.Model]) -> None:
    model = randomised(build())
    again = read(model).with_graph(read(model).graph.copy())
    inputs = feeds(read(model))
    for expected, actual in zip(read(model).predict(inputs), again.predict(inputs), strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert again.keras_model.output_names == model.output_names
    assert [layer.name for layer in again.keras_model.layers] == [layer.name for layer in model.layers]


def test_configurations_are_equal_down_to_the_last_entry() -> None:
    model = conv_bn_relu()
    loaded = read(model)
    rebuilt = loaded.with_graph(loaded.graph.copy()).keras_model
    assert rebuilt is not model
    assert normalised_config(rebuilt) == normalised_config(model)


def test_the_model_that_was_given_is_left_alone() -> None:
    model = randomised(shared_tower())
    config = normalised_config(model)
    weights = [value.copy() for value in model.get_weights()]
    calls = [len(layer._inbound_nodes) for layer in model._flatten_layers(include_self=False)]
    _ = folded(read(model)).keras_model
    assert normalised_config(model) == config
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers(include_self=False)] == calls
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


# -- folding, layer by layer -------------------------------------------------------------------------------------

LINEAR = {
    "Conv1D": ((9, 4), lambda: layers.Conv1D(3, 2, use_bias=False)),
    "Conv2D": ((9, 9, 4), lambda: layers.Conv2D(6, 3, groups=2, strides=2)),
    "Conv3D": ((5, 5, 5, 2), lambda: layers.Conv3D(3, 2, use_bias=False)),
    "Conv1DTranspose": ((9, 4), lambda: layers.Conv1DTranspose(3, 2, use_bias=False)),
    "Conv2DTranspose": ((5, 5, 4), lambda: layers.Conv2DTranspose(3, 3, strides=2)),
    "Conv3DTranspose": ((4, 4, 4, 2), lambda: layers.Conv3DTranspose(3, 2, use_bias=False)),
    "DepthwiseConv1D": ((9, 4), lambda: layers.DepthwiseConv1D(3, depth_multiplier=2, use_bias=False)),
    "DepthwiseConv2D": ((9, 9, 4), lambda: layers.DepthwiseConv2D(3, depth_multiplier=2)),
    "SeparableConv1D": ((9, 4), lambda: layers.SeparableConv1D(5, 3, use_bias=False)),
    "SeparableConv2D": ((9, 9, 4), lambda: layers.SeparableConv2D(5, 3, use_bias=False)),
    "Dense": ((4,), lambda: layers.Dense(5, use_bias=False)),
    "Dense on a sequence": ((6, 4), lambda: layers.Dense(5)),
    "EinsumDense": ((6, 4), lambda: layers.EinsumDense("abc,cd->abd", (6, 5))),
}


@pytest.mark.parametrize("kind", LINEAR)
@pytest.mark.parametrize("scale", [True, False])
def test_a_batchnorm_goes_into_the_layer_before_it(kind: str, scale: bool) -> None:
    shape, layer = LINEAR[kind]
    norm = layers.BatchNormalization(scale=scale, center=scale)
    model = keras.Sequential([Input(shape), layer(), norm, layers.Activation("tanh", name="tanh")], name="stack")
    result = check_same(model, left=0)
    assert isinstance(result, keras.Sequential)
    assert [one.name for one in result.layers] == [model.layers[0].name, "tanh"]
    assert result.name == "stack"


def test_a_bias_that_appears_is_one_in_the_configuration() -> None:
    result = check_same(conv_bn_relu(), left=0)
    assert result.get_layer("conv").use_bias
    assert [layer.name for layer in result.layers] == ["image", "conv", "relu", "average", "classes"]
    assert result.get_layer("classes").activation is keras.activations.softmax


def test_channels_first() -> None:
    stack = [
        layers.Conv2D(4, 3, data_format="channels_first"),
        layers.BatchNormalization(axis=1),
        layers.Flatten(data_format="channels_first"),
        layers.Dense(2),
    ]
    original = read(randomised(keras.Sequential([Input((3, 6, 6)), *stack])))
    changed = folded(original).keras_model
    assert batchnorms(changed) == 0
    assert changed.layers[0].data_format == "channels_first"
    scale, shift = affine(original.graph, original.graph.ops()[1])
    kernel, bias = stack[0].get_weights()
    np.testing.assert_allclose(changed.layers[0].kernel.numpy(), kernel * scale, rtol=1e-5)
    np.testing.assert_allclose(changed.layers[0].bias.numpy(), bias * scale + shift, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("policy", "tolerance"), [("mixed_float16", 4e-3), ("mixed_bfloat16", 3e-2), ("float64", 1e-12)]
)
def test_dtype_policies_stay(policy: str, tolerance: float) -> None:
    stack = [layers.Dense(5, use_bias=False, dtype=policy), layers.BatchNormalization(dtype=policy)]
    model = keras.Sequential([Input((4,), dtype="float64"), *stack, layers.Dense(2, dtype="float64")])
    result = check_same(model, left=0, tolerance=tolerance)
    assert result.layers[0].dtype_policy.name == policy
    assert result.layers[0].bias.dtype == stack[0].kernel.dtype


def test_frozen_layers_stay_frozen() -> None:
    x = Input((4,))
    frozen = layers.Dense(5, use_bias=False, trainable=False, name="frozen")
    y = layers.BatchNormalization(name="bn")(frozen(x))
    result = check_same(keras.Model(x, dense_bn(y, 3, "free")), left=0)
    assert not result.get_layer("frozen").trainable_weights
    assert len(result.get_layer("frozen").weights) == 2
    assert len(result.get_layer("free").trainable_weights) == 2


# -- shared layers -----------------------------------------------------------------------------------------------


def test_calls_that_changed_alike_still_share_one_layer() -> None:
    dense, norm = layers.Dense(5, name="dense"), layers.BatchNormalization(name="norm")
    a, b = Input((4,)), Input((4,))
    result = check_same(keras.Model([a, b], [norm(dense(a)), norm(dense(b))]), left=0)
    assert len(result.weights) == 2
    assert len(result.get_layer("dense")._inbound_nodes) == 2


def test_a_call_that_changed_alone_gets_a_layer_of_its_own() -> None:
    dense = layers.Dense(5, name="dense")
    a, b = Input((4,)), Input((4,))
    normalised = layers.BatchNormalization(name="norm")(dense(a))
    result = check_same(keras.Model([a, b], layers.Add(name="add")([normalised, dense(b)])), left=0)
    assert {layer.name for layer in result.layers if layer.weights} == {"dense", "dense_2"}


def test_a_batchnorm_used_twice() -> None:
    norm = layers.BatchNormalization(name="norm")
    x = Input((4,))
    y = norm(layers.Dense(4, name="first")(x))
    check_same(keras.Model(x, norm(layers.Dense(4, name="second")(y))), left=0)


def test_a_nested_model_called_twice_stays_one_model() -> None:
    result = check_same(shared_tower(), left=0)
    assert len(result.get_layer("tower").layers) == 2
    assert len(result.weights) == 4
    assert sorted(result.output) == ["first", "second"]


def test_a_layer_shared_between_a_nested_model_and_its_surroundings() -> None:
    dense = layers.Dense(4, name="dense")
    inner = Input((4,))
    body = keras.Model(inner, layers.BatchNormalization()(dense(inner)), name="body")
    x = Input((4,))
    result = check_same(keras.Model(x, layers.Add()([body(x), dense(x)])), left=0)
    assert result.get_layer("body").get_layer("dense") is not result.get_layer("dense")


# -- nested models -----------------------------------------------------------------------------------------------


def test_a_batchnorm_leaves_for_the_nested_model_before_it() -> None:
    inner = Input((8, 8, 3))
    body = keras.Model(inner, layers.Conv2D(4, 3, name="conv", use_bias=False)(inner), name="body")
    x = Input((8, 8, 3))
    y = layers.BatchNormalization(name="bn")(body(x, training=False))
    result = check_same(keras.Model(x, layers.ReLU(name="relu")(y)), left=0)
    assert [layer.name for layer in result.layers[1:]] == ["body", "relu"]
    assert result.get_layer("body").get_layer("conv").use_bias


def test_a_batchnorm_leaves_a_nested_model_for_the_layer_before_it() -> None:
    inner = Input((4,))
    body = keras.Model(inner, layers.ReLU(name="relu")(layers.BatchNormalization()(inner)), name="body")
    x = Input((3,))
    result = check_same(keras.Model(x, body(layers.Dense(4, name="dense")(x))), left=0)
    assert [layer.name for layer in result.get_layer("body").layers[1:]] == ["relu"]


def test_a_nested_model_of_nothing_but_a_batchnorm_vanishes() -> None:
    body = keras.Sequential([Input((4,)), layers.BatchNormalization()], name="body")
    model = keras.Sequential([Input((3,)), layers.Dense(4, name="dense"), body, layers.ReLU(name="relu")])
    assert [layer.name for layer in check_same(model, left=0).layers] == ["dense", "relu"]


def test_models_nested_three_deep_stay_nested() -> None:
    innermost = keras.Sequential([Input((4,)), layers.Dense(4), layers.BatchNormalization(), layers.ReLU()], name="c")
    x = Input((4,))
    middle = keras.Model(x, layers.Add()([innermost(x), x]), name="b")
    model = keras.Sequential([Input((4,)), middle, layers.Dense(3), layers.BatchNormalization()], name="a")
    result = check_same(model, left=0)
    assert isinstance(result, keras.Sequential)
    assert isinstance(result.get_layer("b").get_layer("c"), keras.Sequential)


def test_a_nested_model_with_several_inputs_and_outputs() -> None:
    p, q = Input((4,), name="p"), Input((3,), name="q")
    u, v = dense_bn(p, 5, "u"), dense_bn(q, 5, "v")
    body = keras.Model({"p": p, "q": q}, {"product": layers.Multiply()([u, v]), "sum": layers.Add()([u, v])})
    x, y = Input((4,)), Input((3,))
    parts = body({"p": x, "q": y})
    check_same(keras.Model([x, y], [parts["sum"], layers.Dense(2)(parts["product"])]), left=0)


def test_a_nested_model_that_would_have_to_run_twice_is_dissolved() -> None:
    inner = Input((4,))
    body = keras.Model(inner, layers.Dense(4, name="dense")(inner), name="body")
    x = Input((4,))
    y = body(x)
    z = layers.Dense(4, name="dense")(y)
    model = read(keras.Model(x, layers.Add(name="add")([y, z])))
    graph = model.graph.copy()
    graph.put(Op("twice", "Add", ("body/dense", "dense"), ("inner",), domain="keras"), after="body/dense")
    graph.rewire(Use("add", 0), "inner")
    changed = model.with_graph(graph)
    inputs = feeds(model)
    hidden = keras.Model(x, [y, z]).predict_on_batch(inputs[model.graph.inputs[0].name])
    (actual,) = changed.predict(inputs)
    np.testing.assert_allclose(actual, hidden[0] + 2 * hidden[1], rtol=1e-5, atol=1e-5)
    assert {layer.name for layer in changed.keras_model.layers} >= {"body_dense", "dense", "add"}


# -- what else folding can leave behind --------------------------------------------------------------------------


def test_a_fused_activation_between_layer_and_batchnorm_stays_fused() -> None:
    model = keras.Sequential(
        [Input((4,)), layers.Dense(4, activation="elu", name="one"), layers.BatchNormalization(name="bn")]
    )
    result = check_same(model, left=1)
    assert result.get_layer("one").activation is keras.activations.elu


def test_an_activation_that_something_came_before_is_a_layer_of_its_own() -> None:
    model = read(keras.Sequential([Input((4,), name="x"), layers.Dense(3, activation="relu", name="dense")]))
    graph = model.graph.copy()
    like = graph.params["dense/kernel"]
    statistics = [
        constant(graph, name, np.full(3, value), like) for name, value in zip("gbmv", (2, 1, 0, 1), strict=True)
    ]
    norm = Op(
        "scale",
        "BatchNormalization",
        ("dense/linear", *statistics),
        ("scaled",),
        {"axis": 1, "epsilon": 0.0},
        domain="keras",
    )
    graph.put(norm, after="dense")
    graph.rewire(Use("dense/activation", 0), "scaled")
    changed = model.with_graph(graph)
    inputs = feeds(model)
    kernel, bias = model.keras_model.get_weights()
    expected = np.maximum(2 * (inputs["x"] @ kernel + bias) + 1, 0)
    np.testing.assert_allclose(changed.predict(inputs)[0], expected, rtol=1e-5, atol=1e-5)
    assert [layer.name for layer in changed.keras_model.layers] == ["dense", "scale", "dense_activation"]


def test_a_batchnorm_can_take_others_in() -> None:
    model = read(
        randomised(keras.Sequential([Input((4,), name="x"), layers.BatchNormalization(name="bn", scale=False)]))
    )
    graph = model.graph.copy()
    (norm,) = graph.ops()
    gamma = constant(graph, "gamma", np.full(4, 3.0), graph.params[norm.inputs[2]])
    graph.put(replace(norm, inputs=(norm.inputs[0], gamma, *norm.inputs[2:]), record=None))
    changed = model.with_graph(graph)
    assert changed.keras_model.get_layer("bn").scale
    inputs = feeds(model)
    beta, mean, variance = (graph.params[name].array() for name in norm.inputs[2:])
    expected = 3 * (inputs["x"] - mean) / np.sqrt(variance + 1e-3) + beta
    np.testing.assert_allclose(changed.predict(inputs)[0], expected, rtol=1e-5, atol=1e-5)


def test_merged_branches_become_one_larger_convolution() -> None:
    x = Input((6, 6, 3), name="x")
    wide = layers.Conv2D(4, 3, padding="same", name="wide")(x)
    narrow = layers.Conv2D(4, 1, padding="same", name="narrow")(x)
    model = read(keras.Model(x, layers.Add(name="add")([wide, narrow])))
    graph = model.graph.copy()
    kernel = graph.params["narrow/kernel"].exact()
    merged = graph.params["wide/kernel"].exact()
    merged[1:2, 1:2] += kernel
    bias = graph.params["wide/bias"].exact() + graph.params["narrow/bias"].exact()
    like = graph.params["wide/kernel"]
    inputs = ("x", constant(graph, "merged", merged, like), constant(graph, "bias", bias, like))
    narrow_op = graph.op("narrow")
    for name in ("wide", "add"):
        graph.remove(name)
    graph.put(replace(narrow_op, inputs=inputs, outputs=("add",), record=None))
    changed = model.with_graph(graph)
    assert changed.keras_model.get_layer("narrow").kernel_size == (3, 3)
    fed = feeds(model)
    np.testing.assert_allclose(changed.predict(fed)[0], model.predict(fed)[0], rtol=1e-5, atol=1e-5)


def test_a_sum_can_lose_an_operand() -> None:
    a, b, c = (Input((4,), name=name) for name in "abc")
    model = read(keras.Model([a, b, c], layers.Add(name="add")([a, b, c])))
    graph = model.graph.copy()
    graph.put(replace(graph.op("add"), inputs=("a", "c"), record=None))
    changed = model.with_graph(graph)
    fed = feeds(model)
    np.testing.assert_allclose(changed.predict(fed)[0], fed["a"] + fed["c"], rtol=1e-6)


def test_an_operation_s_constant_can_change() -> None:
    x = Input((4,), name="x")
    model = read(keras.Model(x, 3.0 - x))
    graph = model.graph.copy()
    (subtract,) = graph.ops()
    graph.params["five"] = Param.of("five", np.float32(5))
    graph.put(replace(subtract, inputs=("five", "x"), record=None))
    fed = feeds(model)
    np.testing.assert_allclose(model.with_graph(graph).predict(fed)[0], 5 - fed["x"], rtol=1e-6)


def test_an_output_returned_twice_is_returned_twice() -> None:
    x = Input((4,))
    y = dense_bn(x, 3, "dense")
    model = keras.Model(x, [y, x, y])
    assert len(check_same(model, left=0).outputs) == 3


def test_what_keras_cannot_express_is_an_output_error() -> None:
    model = read(conv_bn_relu())
    graph = model.graph.copy()
    graph.put(replace(graph.op("relu"), type="Erf"))
    with pytest.raises(OutputError, match=r"relu \(Erf\) cannot be expressed as a Keras layer"):
        _ = model.with_graph(graph).keras_model


# -- layers of every kind are carried over -----------------------------------------------------------------------


class Doubling(layers.Layer):
    """A custom layer with a weight and an argument, registered nowhere."""

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.weight = self.add_weight(shape=(shape[-1], self.units), name="weight")

    def call(self, inputs):
        return 2 * inputs @ self.weight

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_opaque_layers_keep_their_weights() -> None:
    factor = np.float32(3)
    x = Input((6, 8))
    y = layers.MultiHeadAttention(2, 4)(x, x)
    y = layers.LayerNormalization()(layers.Add()([x, y]))
    y = layers.TimeDistributed(layers.Dense(5))(y)
    y = layers.Lambda(lambda value: value * factor)(y)
    y = Doubling(4)(y)
    y = layers.Bidirectional(layers.GRU(3, return_sequences=True))(y)
    check_same(keras.Model(x, dense_bn(y, 3, "dense")), left=0)


def test_preprocessing_layers_keep_what_they_adapted_to() -> None:
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(size=(50, 4)) * 3 + 1)
    x = Input((4,))
    y = layers.Rescaling(0.5, offset=-1)(normalization(x))
    check_same(keras.Model(x, dense_bn(y, 3, "dense")), left=0)
    lookup = layers.IntegerLookup()
    lookup.adapt(np.array([0, 1, 1, 2, 4]))
    tokens = Input((5,), dtype="int64")
    y = layers.Embedding(8, 4, mask_zero=True)(lookup(tokens))
    check_same(keras.Model(tokens, dense_bn(layers.LSTM(3)(y), 3, "dense")), left=0)


def test_arguments_of_a_call_are_kept() -> None:
    x, hidden, cell = Input((5, 4)), Input((3,)), Input((3,))
    y = layers.LSTM(3, return_sequences=True)(x, initial_state=[hidden, cell])
    check_same(keras.Model([x, hidden, cell], dense_bn(y, 2, "dense")), left=0)


# -- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", ["transfer.keras", "mlp_bn_before.keras", "cnn_legacy.h5"])
def test_a_folded_file_loads_in_plain_keras(name: str, suffix: str, tmp_path: Path) -> None:
    model = read(keras.models.load_model(FOLDER / name, compile=False))
    changed = folded(model)
    path = tmp_path / f"folded{suffix}"
    changed.save(path)
    loaded = keras.models.load_model(path, compile=False)
    assert batchnorms(loaded) == 0
    fed = feeds(model)
    actual = loaded.predict_on_batch(next(iter(fed.values())))
    np.testing.assert_allclose(actual, model.predict(fed)[0], rtol=0, atol=2e-6)


def test_a_keras_file_names_no_module_but_keras_own(tmp_path: Path) -> None:
    path = tmp_path / "folded.keras"
    folded(read(randomised(conv_bn_relu()))).save(path)
    config = json.loads(zipfile.ZipFile(path).read("config.json"))
    modules = {json.dumps(value) for value in _values(config, "module")}
    assert all(module.startswith('"keras') for module in modules)


def _values(config, key: str):
    if isinstance(config, dict):
        if key in config:
            yield config[key]
        for value in config.values():
            yield from _values(value, key)
    elif isinstance(config, list):
        for value in config:
            yield from _values(value, key)


def test_saving_writes_the_whole_file_or_none(tmp_path: Path) -> None:
    model = read(conv_bn_relu())
    target = tmp_path / "model.keras"
    target.write_bytes(b"the old file")
    graph = model.graph.copy()
    graph.put(replace(graph.op("relu"), type="Erf"))
    with pytest.raises(OutputError):
        model.with_graph(graph).save(target)
    assert target.read_bytes() == b"the old file"
    with pytest.raises(OutputError):
        model.save(tmp_path / "nowhere" / "model.keras")
    model.save(target)
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    assert zipfile.is_zipfile(target)


def test_the_suffix_decides_the_format(tmp_path: Path) -> None:
    model = read(conv_bn_relu())
    for suffix, magic in ((".keras", b"PK"), (".h5", b"\x89HDF"), (".hdf5", b"\x89HDF")):
        model.save(tmp_path / f"model{suffix}")
        assert (tmp_path / f"model{suffix}").read_bytes().startswith(magic)
    with pytest.raises(UsageError, match=r"\.tflite"):
        model.save(tmp_path / "model.tflite")


@pytest.mark.parametrize("small_first", [True, False], ids=["small first", "large first"])
@pytest.mark.parametrize("adapted", [True, False], ids=["adapted", "given"])
def test_a_normalization_shared_by_inputs_of_other_shapes(small_first: bool, adapted: bool) -> None:
    random = np.random.default_rng(0)
    if adapted:
        shared = layers.Normalization(axis=(1, 2))
        shared.adapt(random.normal(2, 3, (20, 3, 4)).astype(np.float32))
    else:
        shared = layers.Normalization(axis=(1, 2), mean=random.normal(size=(3, 4)), variance=random.random((3, 4)))
        shared.build((None, 3, 4))
    small, large = Input((1, 4), name="small"), Input((3, 4), name="large")
    order = [small, large] if small_first else [large, small]
    called = [shared(tensor) for tensor in order]
    check_same(keras.Model(order, [dense_bn(layers.ReLU()(called[0]), 2, "dense"), called[1]]), left=0)


def test_what_keras_cannot_build_again_is_one_sentence() -> None:
    class Picky(layers.Layer):
        refuses = False

        def compute_output_shape(self, shape):
            if Picky.refuses:
                raise ValueError("no such shape")
            return shape

        def call(self, x):
            return x

    x = Input((4,))
    model = read(randomised(keras.Model(x, Picky(name="picky")(dense_bn(x, 3, "dense")))))
    Picky.refuses = True
    with pytest.raises(OutputError, match=r"^layer picky \(Picky\) cannot be built again: .*no such shape"):
        _ = folded(model).keras_model


# -- TimeDistributed ---------------------------------------------------------------------------------


def each(*made: Any) -> Callable[[Any], Any]:
    """Layers that are each applied to every step."""

    def body(x: Any) -> Any:
        for layer in made:
            x = layers.TimeDistributed(layer)(x)
        return x

    return body


def cnn() -> keras.Model:
    stack = [Input((6, 6, 2)), layers.Conv2D(3, 3), layers.BatchNormalization(), layers.ReLU(), layers.Flatten()]
    return keras.Sequential(stack, name="cnn")


FRAMES = (4, 6, 6, 2)
STEPS: dict[str, tuple[tuple[int | None, ...], Callable[[Any], Any], list[str]]] = {
    "layers": (
        FRAMES,
        each(layers.Conv2D(3, 3), layers.BatchNormalization(), layers.ReLU(), layers.Flatten()),
        ["Conv2D", "ReLU", "Flatten"],
    ),
    "an activation that is fused": (
        (None, 5),
        each(layers.Dense(4, activation="relu"), layers.BatchNormalization(), layers.Dense(2)),
        ["Dense", "Dense"],
    ),
    "a model": (FRAMES, each(cnn(), layers.Dense(2)), ["Sequential", "Dense"]),
    "steps of steps": (
        (3, 2, 5),
        each(layers.TimeDistributed(layers.Dense(4)), layers.TimeDistributed(layers.BatchNormalization())),
        ["TimeDistributed"],
    ),
}


@pytest.mark.parametrize(("shape", "body", "kept"), STEPS.values(), ids=STEPS)
def test_what_is_applied_to_each_step_is_folded_and_wrapped_again(shape, body, kept, tmp_path) -> None:
    x = Input(shape)
    model = read(randomised(keras.Model(x, body(x))))
    graph, plan = fold_graph(model.graph)
    assert not plan.remaining
    result = model.with_graph(graph).keras_model
    assert [type(layer.layer).__name__ for layer in result.layers[1:]] == kept
    assert {layer.name for layer in result.layers} <= {layer.name for layer in model.keras_model.layers}
    result.save(tmp_path / "folded.keras")
    loaded = keras.saving.load_model(tmp_path / "folded.keras")
    data = np.random.default_rng(0).normal(size=(2, *(size or 3 for size in shape))).astype(np.float32)
    np.testing.assert_allclose(np.asarray(loaded(data)), np.asarray(model.keras_model(data)), rtol=0, atol=1e-5)


def test_a_frozen_model_that_is_applied_to_each_step_stays_frozen_and_shared() -> None:
    inner = cnn()
    inner.trainable = False
    steps, a, b = layers.TimeDistributed(inner), Input(FRAMES), Input(FRAMES)
    model = read(randomised(keras.Model([a, b], [layers.Dense(2, name="head")(steps(a)), steps(b)])))
    graph, plan = fold_graph(model.graph)
    result = model.with_graph(graph).keras_model
    assert not plan.remaining
    assert sum(isinstance(layer, layers.TimeDistributed) for layer in result.layers) == 1
    assert [variable.path.split("/")[-2] for variable in result.trainable_variables] == ["head", "head"]


def test_what_becomes_two_layers_is_wrapped_as_a_model() -> None:
    model = read(randomised(keras.Model(x := Input((3, 4)), layers.TimeDistributed(layers.Dense(2), name="each")(x))))
    graph = model.graph.copy()
    end = graph.op("each")
    tensor = graph.tensor(end.inputs[0])
    graph.declare(replace(tensor, name="more"))
    more = Op("more", "Activation", (tensor.name,), ("more",), {"activation": "tanh"}, domain="keras")
    graph.put(more, after=graph.producer(tensor.name).name)
    graph.put(replace(end, inputs=("more",)))
    result, data = model.with_graph(graph).keras_model, np.random.default_rng(0).normal(size=(2, 3, 4))
    assert [type(layer).__name__ for layer in result.get_layer("each").layer.layers[1:]] == ["Dense", "Activation"]
    np.testing.assert_allclose(np.asarray(result(data)), np.tanh(model.keras_model(data)), rtol=0, atol=1e-6)
