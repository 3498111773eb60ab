"""Keras models and SavedModels taken to ONNX, compared in onnxruntime with Keras's own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from keras import Input, layers
from keras_models import conv_bn_relu, feeds, folded, randomised, read, shared_tower

import bnfold
from bnfold.errors import ModelFileError, OutputError
from bnfold.formats.keras import convert, load

FOLDER = Path(__file__).parents[2] / "sample_models"


def run(path: Path, inputs: list[np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))


def dims(values) -> list[list[int | str]]:
    return [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values]


@pytest.mark.parametrize("name", ["transfer.keras", "cnn_legacy.h5"])
def test_sample_models_convert_to_what_keras_predicts(name: str, tmp_path: Path) -> None:
    model = load(FOLDER / name)
    inputs = feeds(model)
    (actual,) = run(model.as_onnx(tmp_path), list(inputs.values()))
    np.testing.assert_allclose(actual, model.predict(inputs)[0], rtol=0, atol=2e-6)
    assert model.conversion_difference() < 1e-5


def test_the_batch_size_stays_open_under_one_name(tmp_path: Path) -> None:
    a, b = Input((4,), name="a"), Input((4,), name="b")
    joined = layers.Concatenate()([a, b])
    model = read(keras.Model([a, b], [layers.Dense(3)(joined), layers.Dense(2)(joined)]))
    path = model.as_onnx(tmp_path)
    graph = onnx.load(path).graph
    assert dims(graph.input) == [["batch", 4], ["batch", 4]]
    assert dims(graph.output) == [["batch", 3], ["batch", 2]]
    for batch in (1, 5):
        outputs = run(path, [np.ones((batch, 4), np.float32)] * 2)
        assert [output.shape for output in outputs] == [(batch, 3), (batch, 2)]


def test_several_inputs_and_outputs_keep_their_order(tmp_path: Path) -> None:
    model = read(randomised(shared_tower()))
    inputs = feeds(model)
    for expected, actual in zip(
        model.predict(inputs), run(model.as_onnx(tmp_path), list(inputs.values())), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


def test_a_folded_model_converts_too(tmp_path: Path) -> None:
    model = read(randomised(conv_bn_relu()))
    path = tmp_path / "folded.onnx"
    folded(model).save(path)
    inputs = feeds(model)
    np.testing.assert_allclose(run(path, [inputs["image"]])[0], model.predict(inputs)[0], rtol=0, atol=2e-6)
    onnx.checker.check_model(onnx.load(path), full_check=True)


def test_both_models_convert_into_one_directory(tmp_path: Path) -> None:
    model = read(conv_bn_relu())
    assert model.as_onnx(tmp_path) != model.as_onnx(tmp_path)


def test_a_difference_of_conversion_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    model = read(randomised(conv_bn_relu()))
    assert model.conversion_difference() < 1e-5
    inputs = feeds(model)
    doubled = [2 * output for output in model.predict(inputs)]
    monkeypatch.setattr(type(model), "predict", lambda self, feeds: doubled)
    assert model.conversion_difference(inputs) == pytest.approx(0.5, rel=1e-4)
    spoilt = [np.where(output == output.max(), np.nan, output) for output in doubled]
    monkeypatch.setattr(type(model), "predict", lambda self, feeds: spoilt)
    assert model.conversion_difference(inputs) == float("inf")


def test_integer_inputs_are_fed_sensibly() -> None:
    tokens = Input((5,), dtype="int32")
    model = read(keras.Model(tokens, layers.Dense(2)(layers.Flatten()(layers.Embedding(7, 3)(tokens)))))
    assert model.conversion_difference() < 1e-5


AWKWARD = {
    "grouped convolution": lambda: [Input((9, 9, 4)), layers.Conv2D(6, 3, groups=2)],
    "channels first": lambda: [Input((4, 9, 9)), layers.Conv2D(6, 3, data_format="channels_first", groups=2)],
    "fixed normalization": lambda: [
        Input((6, 3)),
        layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 4.0, 9.0]),
    ],
    "transposed convolution": lambda: [Input((5, 5, 4)), layers.Conv2DTranspose(3, 3, strides=2, padding="same")],
    "mixed precision": lambda: [Input((4,)), layers.Dense(3, dtype="mixed_float16"), layers.Dense(2)],
}


@pytest.mark.parametrize("kind", AWKWARD)
def test_what_tf2onnx_needs_help_with(kind: str) -> None:
    model = read(randomised(keras.Sequential(AWKWARD[kind]())))
    assert model.conversion_difference() < (2e-3 if "mixed" in kind else 1e-5)


def test_conversion_leaves_the_layers_and_tensorflow_as_they_were(tmp_path: Path) -> None:
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(size=(20, 4)))
    mean, eagerly = layer.mean, tf.config.functions_run_eagerly()
    read(keras.Sequential([Input((4,)), layer])).as_onnx(tmp_path)
    assert layer.mean is mean
    assert tf.config.functions_run_eagerly() == eagerly


# -- the weights -----------------------------------------------------------------------------------------------------


def tied() -> keras.Model:
    """An embedding that is read a second time as a matrix."""

    class Tied(layers.Layer):
        def __init__(self, embedding):
            super().__init__()
            self.embedding = embedding

        def call(self, x):
            return keras.ops.matmul(x, keras.ops.transpose(self.embedding.embeddings))

    tokens = Input((5,), dtype="int32")
    embedding = layers.Embedding(9, 4)
    return keras.Model(tokens, Tied(embedding)(embedding(tokens)))


def chain(shape: tuple[int, ...], *body: layers.Layer, **options: str) -> keras.Model:
    return keras.Sequential([Input(shape, **options), *body])


#: Models by what they hold, with how many of their weights stay out of the conversion.
WEIGHTS = {
    "two alike": (lambda: chain((4,), layers.Dense(4, "tanh"), layers.Dense(4, "tanh")), 2),
    "Dense on a sequence": (lambda: chain((5, 4), layers.Dense(3), layers.Flatten(), layers.Dense(2)), 2),
    "EinsumDense": (lambda: chain((5, 4), layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="e")), 1),
    "Conv1D": (lambda: chain((9, 4), layers.Conv1D(4, 3, padding="causal"), layers.Conv1D(6, 3, groups=2)), 2),
    "Conv2D": (lambda: chain((9, 9, 3), layers.Conv2D(4, 3, strides=2), layers.BatchNormalization()), 1),
    "Conv2D without bias": (
        lambda: chain((9, 9, 3), layers.Conv2D(4, 3, use_bias=False), layers.BatchNormalization()),
        1,
    ),
    "channels first": (lambda: chain((4, 9, 9), layers.Conv2D(6, 3, data_format="channels_first", groups=2)), 1),
    "Conv3D": (lambda: chain((5, 5, 5, 2), layers.Conv3D(3, 3), layers.Conv3DTranspose(2, 2, strides=2)), 2),
    "transposed": (lambda: chain((5, 5, 2), layers.Conv2DTranspose(3, 3, strides=2), layers.Conv2DTranspose(2, 2)), 2),
    "Conv1DTranspose": (lambda: chain((5, 2), layers.Conv1DTranspose(3, 3, strides=2, padding="same")), 1),
    "depthwise": (lambda: chain((7, 7, 3), layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")), 1),
    "separable": (lambda: chain((7, 7, 3), layers.SeparableConv2D(4, 3), layers.SeparableConv2D(3, 3)), 4),
    "SeparableConv1D": (lambda: chain((7, 3), layers.SeparableConv1D(4, 3), layers.DepthwiseConv1D(3)), 3),
    "Embedding": (lambda: chain((5,), layers.Embedding(9, 4), layers.Flatten(), layers.Dense(2), dtype="int32"), 2),
    "tied": (tied, 1),
    "recurrent": (lambda: chain((5, 3), layers.LSTM(4), layers.Dense(2)), 1),
    "PReLU": (lambda: chain((4, 3), layers.Dense(3), layers.PReLU()), 1),
    "shared and nested": (shared_tower, 2),
    "float16": (lambda: chain((4,), layers.Dense(3, dtype="float16"), dtype="float16"), 1),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_are_attached_as_they_are(kind: str, tmp_path: Path) -> None:
    build, count = WEIGHTS[kind]
    model = read(randomised(build()))
    inputs = feeds(model)
    path = model.as_onnx(tmp_path)
    onnx.checker.check_model(path, full_check=True)
    for expected, actual in zip(model.predict(inputs), run(path, list(inputs.values())), strict=True):
        tolerance = 2e-3 if expected.dtype == np.float16 else 1e-6
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()))
    taken = convert.keras_to_onnx(keras, model.keras_model, kind).weights.values()
    assert len(taken) == count
    written = [sorted(onnx.numpy_helper.to_array(tensor).ravel()) for tensor in onnx.load(path).graph.initializer]
    for variable in taken:
        assert sorted(np.asarray(variable).ravel()) in written


def test_weights_are_rounded_to_the_type_a_layer_computes_in(tmp_path: Path) -> None:
    model = read(randomised(chain((4,), layers.Dense(3, dtype="mixed_float16"))))
    written = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(model.as_onnx(tmp_path)).graph.initializer]
    kernel = np.asarray(model.keras_model.layers[-1].kernel)
    assert any(np.array_equal(values, kernel.astype(np.float16)) for values in written)


def test_weights_stay_out_of_the_conversion() -> None:
    model = read(chain((1000,), layers.Dense(1000), layers.BatchNormalization()))
    skeleton = convert.keras_to_onnx(keras, model.keras_model, "large")
    assert (
        skeleton.model.ByteSize() < 50_000 < 4_000_000 == sum(np.asarray(v).nbytes for v in skeleton.weights.values())
    )


def test_a_model_is_converted_once_and_again_when_its_weights_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0
    real = convert.keras_to_onnx

    def counting(*arguments):
        nonlocal count
        count += 1
        return real(*arguments)

    monkeypatch.setattr("bnfold.formats.keras.model.keras_to_onnx", counting)
    model = read(randomised(conv_bn_relu()))
    inputs = feeds(model)

    def check(conversions: int) -> None:
        (actual,) = run(model.as_onnx(tmp_path), list(inputs.values()))
        np.testing.assert_allclose(actual, model.predict(inputs)[0], rtol=0, atol=2e-6)
        assert model.conversion_difference() < 1e-5
        assert count == conversions

    check(1)
    model.keras_model.get_layer("conv").kernel.assign(np.ones((3, 3, 3, 4)))  # attached when the file is written
    check(1)
    model.keras_model.get_layer("bn").beta.assign([1.0, 2.0, 3.0, 4.0])  # a constant
    check(2)


def test_where_tf2onnx_needs_the_values_it_gets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tf2onnx

    real = tf2onnx.convert.from_function

    def demanding(function, signature):
        if signature[1]:
            raise ValueError("the kernel is no constant")
        return real(function, signature)

    monkeypatch.setattr(tf2onnx.convert, "from_function", demanding)
    model = read(randomised(conv_bn_relu()))
    assert model.conversion_difference() < 1e-5
    assert not convert.keras_to_onnx(keras, model.keras_model, "small").weights


def test_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    model = read(randomised(conv_bn_relu()))
    path = tmp_path / "model.onnx"
    with model.stage(path, external_data=True) as staged:
        staged.commit()
    assert (tmp_path / "model.onnx.data").stat().st_size
    inputs = feeds(model)
    np.testing.assert_allclose(run(path, list(inputs.values()))[0], model.predict(inputs)[0], rtol=0, atol=2e-6)


# -- what cannot be converted ----------------------------------------------------------------------------------------


def test_bfloat16_is_not_converted(tmp_path: Path) -> None:
    model = read(keras.Sequential([Input((4,)), layers.Dense(3, dtype="mixed_bfloat16")]))
    with pytest.raises(OutputError, match="bfloat16"):
        model.as_onnx(tmp_path)


def test_a_constant_that_would_become_an_input_is_refused(tmp_path: Path) -> None:
    class Shifting(layers.Layer):
        def build(self, shape):
            self.offset = tf.ones(shape[1:])

        def call(self, inputs):
            return inputs + self.offset

    model = read(keras.Sequential([Input((4,)), Shifting()]))
    with pytest.raises(OutputError, match="made inputs of the model's constants"):
        model.as_onnx(tmp_path)


def test_what_tf2onnx_cannot_convert_is_an_output_error(tmp_path: Path) -> None:
    class Solution(layers.Layer):
        def call(self, inputs):
            return tf.linalg.solve(inputs, inputs)

    x = Input((3, 3))
    model = read(keras.Model(x, Solution()(x)))
    with pytest.raises(OutputError, match="no operator for MatrixSolve"):
        model.as_onnx(tmp_path)


@pytest.mark.parametrize("name", ["dense 1", "плотный", "a:b*", "a\\b", "_x", "<b>", "#"])
def test_names_that_tensorflow_does_not_take(name: str, tmp_path: Path) -> None:
    """Keras with another backend takes any name, and writes it into the file."""
    stack = [Input((4,), name="入力"), layers.Dense(3, name=name), layers.BatchNormalization(name=f"{name}_bn")]
    made = randomised(keras.Sequential([*stack, layers.ReLU(name=f"{name}_relu"), layers.Dense(2)], name=f"{name} m"))
    model = read(made)
    inputs = feeds(model)
    (actual,) = run(model.as_onnx(tmp_path), [*inputs.values()])
    np.testing.assert_allclose(actual, made(inputs["入力"]), atol=1e-5)
    np.testing.assert_allclose(model.predict(inputs)[0], actual, atol=1e-5)
    assert [layer.name for layer in model.keras_model.layers][:2] == [name, f"{name}_bn"]
    assert bnfold.verify(made, bnfold.fold(made).model).equivalent


# -- SavedModels -------------------------------------------------------------------------------------------------


def test_a_saved_model_comes_back_as_onnx(tmp_path: Path) -> None:
    model = randomised(conv_bn_relu())
    model.export(tmp_path / "saved", verbose=False)
    loaded = load(tmp_path / "saved")
    assert loaded.format == "onnx"
    assert [tensor.shape for tensor in loaded.graph.inputs] == [("batch", 8, 8, 3)]
    inputs = feeds(read(model))
    (actual,) = run(loaded.as_onnx(tmp_path), list(inputs.values()))
    np.testing.assert_allclose(actual, model.predict_on_batch(inputs["image"]), rtol=0, atol=2e-6)


def saved(model: keras.Model, folder: Path) -> Any:
    """The model by way of a SavedModel, after a check that it computes what Keras does."""
    model.export(folder, verbose=False)
    loaded = load(folder)
    shapes = [(3, *(5 if size is None else size for size in tensor.shape[1:])) for tensor in model.inputs]
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    expected = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    # TensorFlow sorts the inputs of a signature by their names.
    by_name = dict(zip((tensor.name for tensor in model.inputs), inputs, strict=True))
    actual = run(loaded.as_onnx(folder.parent), [by_name.get(t.name, inputs[0]) for t in loaded.graph.inputs])
    for mine, theirs in zip(actual, expected if isinstance(expected, list) else [expected], strict=True):
        np.testing.assert_allclose(mine, np.asarray(theirs), rtol=0, atol=1e-5)
    return loaded


def test_a_saved_model_is_known_by_its_folder_and_its_layers(tmp_path: Path) -> None:
    """TensorFlow folds a bias into the BN behind it, and BN201 and BN203 had nothing to say any more."""
    model = randomised(
        keras.Sequential(
            [Input((14,)), layers.Dense(8, name="hidden"), layers.BatchNormalization(name="norm"),
             layers.ReLU(name="act"), layers.Dense(4, name="last"), layers.Softmax(name="scores")]
        )
    )  # fmt: skip
    loaded = saved(model, tmp_path / "mlp")
    report = bnfold.analyze(loaded)
    assert report.model == str(tmp_path / "mlp")
    assert loaded.graph.name == "mlp"
    assert [(item.name, item.decomposed, item.channels) for item in report.batchnorms] == [("norm", False, 8)]
    assert {finding.code: finding.layer for finding in report.findings} == {"BN201": "hidden/MatMul", "BN203": "norm"}
    assert bnfold.fold(loaded).summary.after.batchnorms == 0
    (norm,) = (op for op in loaded.graph.ops() if op.type == "BatchNormalization")
    gamma, beta, mean, variance = (loaded.graph.constant(name).array() for name in norm.inputs[1:])
    for mine, theirs in zip((gamma, beta, mean, variance), model.get_layer("norm").get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}, {"epsilon": 0.01}])
def test_a_saved_model_with_convolutions(tmp_path: Path, options: dict[str, Any]) -> None:
    x = image = Input((12, 12, 3), name="image")
    x = layers.BatchNormalization(name="bn_1", **options)(layers.Conv2D(6, 3, name="conv_1")(x))
    x = layers.BatchNormalization(name="bn_2", **options)(layers.ReLU()(layers.Conv2D(5, 3, name="conv_2")(x)))
    model = randomised(keras.Model(image, layers.Dense(2, name="last")(layers.Flatten()(x))))
    report = bnfold.analyze(saved(model, tmp_path / "saved"))
    whole = [item.name for item in report.batchnorms if not item.decomposed]
    assert whole == ([] if {"scale", "center"} & set(options) else ["bn_1", "bn_2"])


def test_a_saved_model_with_loops_and_several_outputs(tmp_path: Path) -> None:
    x = steps = Input((7, 4), name="steps")
    x = layers.BatchNormalization(name="bn_1")(layers.Conv1D(6, 2, name="conv_1")(x))
    x = layers.LSTM(5, name="lstm")(x)
    other = Input((3,), name="other")
    y = layers.BatchNormalization(name="bn_2")(layers.Dense(4, name="dense")(other))
    model = randomised(
        keras.Model([steps, other], [layers.Dense(2, name="a")(x), layers.Concatenate(name="b")([x, y])])
    )
    loaded = saved(model, tmp_path / "saved")
    assert "bn_2" in [item.name for item in bnfold.analyze(loaded).batchnorms]


class Reader(tf.Module):
    """A serving function that reads a file whose name it is given."""

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
    def __call__(self, name):
        return {"content": tf.io.read_file(name)}


def test_a_saved_model_that_touches_files_is_refused(tmp_path: Path) -> None:
    module = Reader()
    tf.saved_model.save(module, tmp_path / "saved", signatures=module.__call__)
    with pytest.raises(ModelFileError, match=r"uses ReadFile.*--allow-unsafe"):
        load(tmp_path / "saved")


def test_a_damaged_saved_model(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\xff" * 50)
    with pytest.raises(ModelFileError, match="damaged"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "keep"),
    [("variables/variables.data-00000-of-00001", 0.5), ("variables/variables.data-00000-of-00001", None),
     ("variables/variables.index", 0.5), ("variables/variables.index", None), ("saved_model.pb", 0.5)],
)  # fmt: skip
def test_a_saved_model_with_a_damaged_part(tmp_path: Path, name: str, keep: float | None) -> None:
    """TensorFlow's own errors are no RuntimeError, which is what the rest of Keras raises."""
    randomised(conv_bn_relu()).export(tmp_path / "saved", verbose=False)
    part = tmp_path / "saved" / name
    data = part.read_bytes()
    if keep is None:
        part.unlink()
    else:
        part.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ModelFileError) as caught:
        load(tmp_path / "saved")
    assert str(caught.value).startswith(f"{tmp_path / 'saved'} ")
    assert "\n" not in str(caught.value)


def test_a_saved_model_without_a_signature(tmp_path: Path) -> None:
    tf.saved_model.save(tf.Module(), tmp_path / "saved")
    with pytest.raises(ModelFileError, match="no serving_default signature"):
        load(tmp_path / "saved")


def test_batch_names_touch_nothing_else() -> None:
    values = [
        onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["unk__1", 3, "unk__2"]),
        onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["unk__3", "unk__2"]),
        onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [4, "unk__1"]),
    ]
    graph = onnx.helper.make_graph([], "g", values[:1], values[1:2], value_info=values[2:])
    convert._name_batch(graph, {"x": (None, 3, None)}, [(None, None)])
    assert dims([*graph.input, *graph.output, *graph.value_info]) == [
        ["batch", 3, "unk__2"],
        ["batch", "unk__2"],
        [4, "batch"],
    ]


@pytest.mark.parametrize(
    ("shape", "layer", "fused"),
    [
        ((6, 6, 3), layers.BatchNormalization(), True),
        ((3, 6, 6), layers.BatchNormalization(axis=1), True),
        ((6, 6, 3), layers.BatchNormalization(center=False, scale=False), True),
        ((6, 6, 3), layers.BatchNormalization(axis=1), True),
        ((6, 6, 3), layers.BatchNormalization(axis=2), False),
        ((6, 3), layers.BatchNormalization(), False),
        ((6, 6, 3), layers.BatchNormalization(dtype="mixed_float16"), False),
    ],
)
def test_a_bn_over_channels_of_pictures_stays_one_operator(shape, layer, fused: bool, tmp_path: Path) -> None:
    model = read(randomised(chain(shape, type(layer).from_config(layer.get_config()))))
    path = model.as_onnx(tmp_path)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert ("BatchNormalization" in kinds) == fused
    inputs = feeds(model)
    (actual,) = run(path, list(inputs.values()))
    expected = model.predict(inputs)[0]
    tolerance = 2e-3 if expected.dtype == np.float16 else 1e-6
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    assert all("call" not in vars(item) for item in model.keras_model.layers)


def test_weights_that_folding_computed_are_known_before_they_are_rounded(tmp_path: Path) -> None:
    build = keras.Sequential(
        [Input((8, 8, 3)), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten(), layers.Dense(2)]
    )
    result = bnfold.fold(read(randomised(build))).model
    known = result.unrounded()
    path = result.as_onnx(tmp_path)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    exact = {name: read_values() for name, read_values in result.unrounded_in_onnx(known).items()}
    assert sorted(values.ndim for values in exact.values()) == [1, 4]
    for name, values in exact.items():
        assert values.dtype == np.float64
        assert np.array_equal(values.astype(np.float32), stored[name])
        assert not np.array_equal(values, stored[name])
    assert not result.computed_in_onnx()


def test_weights_that_are_cast_on_the_way_are_not_known(tmp_path: Path) -> None:
    stack = [Input((4,)), layers.Dense(3, dtype="mixed_float16"), layers.BatchNormalization(dtype="mixed_float16")]
    result = bnfold.fold(read(randomised(keras.Sequential(stack)))).model
    kernels = [name for name, values in result.unrounded_in_onnx(result.unrounded()).items() if values().ndim == 2]
    assert kernels == []


def test_a_shift_that_tensorflow_computed_was_rounded_at_the_size_of_its_terms(tmp_path: Path) -> None:
    """``beta - mean * scale`` cancels: a thousand less a thousand."""
    model = read(chain((4,), layers.Dense(3), layers.BatchNormalization(epsilon=0.0)))
    norm = model.keras_model.layers[-1]
    norm.set_weights([np.array(v, np.float32) for v in ([2, 2, 2], [1000, 1000, 0.25], [500, -500, 0], [1, 1, 1])])
    path = model.as_onnx(tmp_path)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    shifts = [made for name, made in model.computed_in_onnx().items() if np.allclose(stored[name], [0, 2000, 0.25])]
    (shift,) = shifts
    assert np.allclose(shift.sizes.ravel(), [2000, 2000, 0.25])
    assert np.array_equal(shift.exact.ravel(), [0, 2000, 0.25])


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_a_gelu_is_converted(tmp_path: Path, dtype: str) -> None:
    """Keras computes it by Erfc, which ONNX does not have."""
    model = read(chain((4,), layers.Dense(3, activation="gelu", dtype=dtype)))
    session = onnxruntime.InferenceSession(model.as_onnx(tmp_path))
    x = np.linspace(-3, 3, 20, dtype=np.float32).reshape(5, 4)
    (expected,) = model.predict({model.graph.inputs[0].name: x})
    (actual,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(actual, expected, atol=1e-6 if dtype == "float32" else 2e-3)


def test_names_of_weights_stand_for_what_they_hold(tmp_path: Path) -> None:
    def names() -> list[str]:
        model = read(chain((4,), layers.Dense(3, kernel_initializer=keras.initializers.Constant(value))))
        return [tensor.name for tensor in onnx.load(model.as_onnx(tmp_path)).graph.initializer]

    value = 1.0
    first, again = names(), names()
    assert first == again
    value = 2.0
    assert not any(name.startswith("weight") for name in {*first} & {*names()})


def test_what_tensorflow_computed_is_named(tmp_path: Path) -> None:
    """A BN of vectors is arithmetic, of which TensorFlow makes two constants."""
    model = read(randomised(chain((4,), layers.Dense(3), layers.BatchNormalization())))
    path = model.as_onnx(tmp_path)
    made = model.computed_in_onnx()
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    norm = model.keras_model.layers[-1]
    scale = np.asarray(norm.gamma) / np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
    assert any(np.allclose(stored[name].ravel(), scale, rtol=1e-6, atol=0) for name in made if stored[name].size == 3)
    assert not any(np.array_equal(stored[name], np.asarray(model.keras_model.layers[-2].kernel)) for name in made)


def test_what_one_layer_is_told_about_training_is_not_told_to_the_next(tmp_path: Path) -> None:
    """Keras hands it on, so that a BN behind one in training mode would be converted with statistics of the batch."""
    x = Input((4,))
    y = layers.BatchNormalization(name="of_the_batch")(layers.Dense(5)(x), training=True)
    model = randomised(keras.Model(x, layers.BatchNormalization()(layers.Dense(3)(y))))
    read_model = read(model)
    data = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    (actual,) = run(read_model.as_onnx(tmp_path), [data])
    middle = model.layers[1](data)
    for layer in model.layers[2:]:
        middle = layer(middle, training=layer.name == "of_the_batch")
    np.testing.assert_allclose(actual, np.asarray(middle), rtol=0, atol=1e-5)
    assert all("call" not in vars(layer) for layer in model.layers)


@pytest.mark.parametrize("nested", [False, True])
def test_pictures_are_changed_in_training_alone(nested: bool, tmp_path: Path) -> None:
    """As in many a tutorial: nothing of it is left at inference, and the BN behind it has its moving statistics."""
    augmentation = [layers.RandomFlip(), layers.RandomRotation(0.2), layers.RandomZoom(0.2), layers.RandomContrast(0.2)]
    first = [keras.Sequential(augmentation)] if nested else augmentation
    rest = [layers.Rescaling(1 / 255), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()]
    model = read(randomised(keras.Sequential([Input((8, 8, 3)), *first, *rest, layers.Flatten(), layers.Dense(2)])))
    inputs = feeds(model)
    (actual,) = run(model.as_onnx(tmp_path), list(inputs.values()))
    np.testing.assert_allclose(actual, model.predict(inputs)[0], rtol=0, atol=2e-6)
    result = bnfold.fold(model)
    assert result.summary.after.batchnorms == 0
    assert bnfold.verify(model, result.model).equivalent


def test_what_moved_a_weight_is_not_left_behind(tmp_path):
    """The kernel of a depthwise convolution is reshaped on its way: the shape is of no use to the result."""
    model = read(chain((8, 8, 3), layers.SeparableConv2D(4, 3), layers.BatchNormalization(), layers.DepthwiseConv2D(3)))
    graph = onnx.load(model.as_onnx(tmp_path)).graph
    used = {name for node in graph.node for name in node.input}
    assert [tensor.name for tensor in graph.initializer if tensor.name not in used] == []
