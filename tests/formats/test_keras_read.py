"""Live Keras models as graphs of layers."""

from __future__ import annotations

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import Input, layers
from keras_models import conv_bn_relu, read, shared_tower

from bnfold.errors import ModelFileError
from bnfold.operators.keras import KERAS


def only(model: keras.Model, kind: str):
    graph = read(model).graph
    (op,) = [op for op in graph.ops() if op.type == kind]
    return graph, op


def sequential(shape: tuple[int, ...], *stack: keras.layers.Layer) -> keras.Model:
    return keras.Sequential([Input(shape), *stack])


def test_a_fused_activation_is_an_operator_of_its_own() -> None:
    graph = read(conv_bn_relu()).graph
    linear, activation = graph.ops()[-2:]
    assert [op.type for op in graph.ops()] == [
        *("Conv2D", "BatchNormalization", "ReLU", "GlobalAveragePooling2D", "Dense", "Activation")
    ]
    assert (linear.origin, activation.origin) == ("classes", "classes")
    assert activation.attributes == {"activation": "softmax"}
    assert activation.inputs == linear.outputs
    assert graph.outputs == activation.outputs == ("classes",)
    assert [tensor.name for tensor in graph.inputs] == ["image"]


def test_tensors_carry_shape_and_dtype() -> None:
    graph = read(conv_bn_relu()).graph
    assert graph.tensor("image").shape == (None, 8, 8, 3)
    assert graph.tensor("bn").shape == (None, 8, 8, 4)
    assert graph.tensor("classes/linear").shape == (None, 2)
    assert graph.tensor("bn").dtype == np.float32


def test_operators_and_their_names_follow_the_keras_domain() -> None:
    graph = read(conv_bn_relu()).graph
    assert graph.dialect is KERAS
    assert {op.domain for op in graph.ops()} == {"keras"}
    assert [op.display for op in graph.ops()] == ["conv", "bn", "relu", "average", "classes", "classes/softmax"]


SLOTS = [
    ("Dense", sequential((4,), layers.Dense(3)), ["kernel", "bias"]),
    ("Conv1D", sequential((9, 4), layers.Conv1D(3, 2)), ["kernel", "bias"]),
    ("Conv3D", sequential((5, 5, 5, 2), layers.Conv3D(3, 2)), ["kernel", "bias"]),
    ("Conv2DTranspose", sequential((5, 5, 2), layers.Conv2DTranspose(3, 2)), ["kernel", "bias"]),
    ("DepthwiseConv2D", sequential((5, 5, 2), layers.DepthwiseConv2D(2)), ["kernel", "bias"]),
    (
        "SeparableConv2D",
        sequential((5, 5, 2), layers.SeparableConv2D(3, 2)),
        ["depthwise_kernel", "pointwise_kernel", "bias"],
    ),
    ("EinsumDense", sequential((5, 2), layers.EinsumDense("abc,cd->abd", (5, 4), bias_axes="d")), ["kernel", "bias"]),
    (
        "BatchNormalization",
        sequential((4,), layers.BatchNormalization()),
        ["gamma", "beta", "moving_mean", "moving_variance"],
    ),
    ("Embedding", sequential((4,), layers.Embedding(7, 3)), ["embeddings"]),
    ("PReLU", sequential((4,), layers.PReLU()), ["alpha"]),
    ("LSTM", sequential((4, 2), layers.LSTM(3)), ["cell.kernel", "cell.recurrent_kernel", "cell.bias"]),
    ("GRU", sequential((4, 2), layers.GRU(3)), ["cell.kernel", "cell.recurrent_kernel", "cell.bias"]),
]


@pytest.mark.parametrize(("kind", "model", "attributes"), SLOTS, ids=[row[0] for row in SLOTS])
def test_weights_stand_in_documented_slots(kind: str, model: keras.Model, attributes: list[str]) -> None:
    graph, op = only(model, kind)
    assert op.inputs[0] == graph.inputs[0].name
    assert len(op.inputs) == 1 + len(attributes)
    for name, attribute in zip(op.inputs[1:], attributes, strict=True):
        variable = model.layers[0]
        for part in attribute.split("."):
            variable = getattr(variable, part)
        param = graph.params[name]
        assert param.shape == tuple(variable.shape)
        np.testing.assert_array_equal(param.array(), variable.numpy())
        np.testing.assert_array_equal(param.data.rows(1, 2), variable.numpy()[1:2])


def test_a_weight_that_is_left_out_leaves_its_slot_empty() -> None:
    _, dense = only(sequential((4,), layers.Dense(3, use_bias=False)), "Dense")
    assert dense.inputs[2] == ""
    _, norm = only(sequential((4,), layers.BatchNormalization(scale=False, center=False)), "BatchNormalization")
    assert [bool(name) for name in norm.inputs] == [True, False, False, True, True]


def test_axes_count_from_the_left() -> None:
    _, norm = only(sequential((5, 6, 7), layers.BatchNormalization(axis=-2)), "BatchNormalization")
    assert norm.attributes["axis"] == 2
    _, softmax = only(sequential((5, 6), layers.Softmax(axis=-1)), "Softmax")
    assert softmax.attributes["axis"] == 2
    a, b = Input((5, 6)), Input((5, 7))
    _, join = only(keras.Model([a, b], layers.Concatenate(axis=-1)([a, b])), "Concatenate")
    assert join.attributes["axis"] == 2
    _, permute = only(sequential((5, 6), layers.Permute((2, 1))), "Permute")
    assert permute.attributes["perm"] == (0, 2, 1)


def test_convolution_attributes() -> None:
    layer = layers.Conv2D(4, (3, 1), strides=2, padding="same", groups=2, data_format="channels_first")
    _, conv = only(sequential((2, 9, 9), layer), "Conv2D")
    assert conv.attributes == {
        "filters": 4,
        "kernel_size": (3, 1),
        "strides": (2, 2),
        "padding": "same",
        "dilation_rate": (1, 1),
        "groups": 2,
        "data_format": "channels_first",
        "use_bias": True,
    }


def test_paddings_are_pairs_in_every_rank() -> None:
    assert only(sequential((5, 2), layers.ZeroPadding1D((1, 2))), "ZeroPadding1D")[1].attributes["padding"] == ((1, 2),)
    two = only(sequential((5, 5, 2), layers.ZeroPadding2D((1, 2))), "ZeroPadding2D")[1]
    assert two.attributes["padding"] == ((1, 1), (2, 2))
    assert only(sequential((5, 2), layers.Cropping1D(1)), "Cropping1D")[1].attributes["cropping"] == ((1, 1),)


def test_normalization_lists_its_statistics_shaped_to_broadcast() -> None:
    adapted = layers.Normalization()
    adapted.adapt(np.random.default_rng(0).normal(size=(20, 6, 3)) * 2 + 1)
    fixed = layers.Normalization(axis=-1, mean=[1.0, 2.0, 3.0], variance=[1.0, 4.0, 9.0])
    for layer in (adapted, fixed):
        graph, op = only(sequential((6, 3), layer), "Normalization")
        mean, variance = (graph.params[name] for name in op.inputs[1:])
        assert mean.shape == variance.shape == (1, 1, 3)
        x = np.random.default_rng(1).normal(size=(2, 6, 3)).astype(np.float32)
        expected = (x - mean.array()) / np.sqrt(variance.array())
        np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_nested_models_are_flattened_under_their_names() -> None:
    body = keras.Sequential([Input((4,)), layers.Dense(3, name="dense"), layers.ReLU(name="relu")], name="body")
    outer = keras.Sequential([Input((4,)), body, layers.Dense(2, name="head")], name="outer")
    graph = read(keras.Sequential([Input((4,)), outer], name="all")).graph
    assert [op.name for op in graph.ops()] == ["outer/body/dense", "outer/body/relu", "outer/head"]
    assert "outer/body/dense/kernel" in graph.params


def test_a_layer_called_twice_is_two_operators_on_the_same_params() -> None:
    dense, norm = layers.Dense(4, name="dense"), layers.BatchNormalization(name="norm")
    x = Input((4,))
    graph = read(keras.Model(x, norm(dense(norm(dense(x)))))).graph
    assert [op.name for op in graph.ops()] == ["dense", "norm", "dense@2", "norm@2"]
    first, _, second, _ = graph.ops()
    assert first.inputs[1:] == second.inputs[1:]
    assert first.origin == second.origin == "dense"
    assert second.display == "dense (call 2)"
    assert len(graph.params) == 6


def test_a_nested_model_called_twice_shares_its_params() -> None:
    graph = read(shared_tower()).graph
    dense = [op for op in graph.ops() if op.origin == "tower/dense"]
    assert {op.name for op in dense} == {"tower/dense", "tower@2/dense"}
    assert dense[0].inputs[1:] == dense[1].inputs[1:]


def test_several_inputs_and_outputs_keep_keras_order() -> None:
    model = shared_tower()
    graph = read(model).graph
    assert [tensor.name for tensor in graph.inputs] == [tensor._keras_history.operation.name for tensor in model.inputs]
    assert set(graph.outputs) == {"head", "tower/relu"} or set(graph.outputs) == {"head", "tower@2/relu"}
    shapes = [graph.tensor(name).shape for name in graph.outputs]
    assert shapes == [tuple(tensor.shape) for tensor in model.outputs]


def test_an_output_returned_twice_and_an_input_returned_have_names_of_their_own() -> None:
    x = Input((4,), name="x")
    y = layers.Dense(3, name="dense")(x)
    graph = read(keras.Model(x, [y, y, x])).graph
    assert len(set(graph.outputs)) == 3
    assert [graph.producer(name).type for name in graph.outputs] == ["Dense", "Identity", "Identity"]


def test_training_behaviour_asked_for_in_a_call_is_recorded() -> None:
    x = Input((4,))
    inner = Input((4,))
    body = keras.Model(inner, layers.BatchNormalization(name="inner")(inner), name="body")
    y = layers.BatchNormalization(name="frozen")(x, training=False)
    y = layers.BatchNormalization(name="live")(y, training=True)
    graph = read(keras.Model(x, body(y, training=True))).graph
    asked = {op.name: op.attributes.get("training", False) for op in graph.ops()}
    assert asked == {"frozen": False, "live": True, "body/inner": True}


@pytest.mark.parametrize(
    ("policy", "variable", "compute"),
    [
        ("mixed_float16", np.dtype(np.float32), np.dtype(np.float16)),
        ("mixed_bfloat16", np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)),
        ("bfloat16", np.dtype(ml_dtypes.bfloat16), np.dtype(ml_dtypes.bfloat16)),
        ("float64", np.dtype(np.float64), np.dtype(np.float64)),
    ],
)
def test_a_dtype_policy_gives_params_the_variables_dtype(policy: str, variable: np.dtype, compute: np.dtype) -> None:
    graph, op = only(sequential((4,), layers.Dense(3, dtype=policy)), "Dense")
    param = graph.params[op.inputs[1]]
    assert param.dtype == param.array().dtype == variable
    assert graph.tensor(op.outputs[0]).dtype == compute
    assert ("compute_dtype" in op.attributes) == (variable != compute)


def test_unknown_layers_are_opaque_but_own_their_weights() -> None:
    cells = layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)])
    graph, op = only(sequential((5, 8), layers.Bidirectional(cells)), "Bidirectional[RNN]")
    assert len(op.inputs) == 1 + 12
    assert op.attributes == {"contains": ("Bidirectional",)}
    x = Input((5, 8))
    graph, op = only(keras.Model(x, layers.GroupQueryAttention(4, 2, 2)(x, x)), "GroupedQueryAttention")
    assert op.inputs[:2] == (graph.inputs[0].name, graph.inputs[0].name)
    assert len(op.inputs) == 2 + 8
    assert op.attributes == {"contains": ("Dropout", "EinsumDense", "Softmax")}
    adapted = layers.Dense(3)
    model = sequential((8,), adapted)
    adapted.enable_lora(2)
    assert only(model, "Dense[lora]")[1].attributes == {"contains": ("Dense",)}
    assert not only(sequential((8,), layers.UnitNormalization()), "UnitNormalization")[1].attributes


def test_a_bidirectional_layer_has_the_weights_of_both_ways() -> None:
    model = sequential((5, 8), layers.Bidirectional(layers.LSTM(3), backward_layer=layers.GRU(3, go_backwards=True)))
    graph, op = only(model, "Bidirectional")
    own = model.layers[0]
    expected = [each.cell for each in (own.forward_layer, own.backward_layer)]
    kept = [graph.params[name].array() for name in op.inputs[1:]]
    weights = [weight for cell in expected for weight in (cell.kernel, cell.recurrent_kernel, cell.bias)]
    for a, b in zip(kept, weights, strict=True):
        np.testing.assert_array_equal(a, np.asarray(b))


def test_a_custom_class_with_a_known_name_is_not_mistaken_for_it() -> None:
    class Dense(layers.Dense):
        def call(self, inputs, training=None):
            return super().call(inputs, training) ** 2

    (op,) = read(sequential((4,), Dense(3))).graph.ops()
    assert op.type not in ("Dense", "Activation")
    assert not op.attributes


def test_a_quantized_layer_is_not_the_plain_one() -> None:
    model = sequential((8,), layers.Dense(4))
    model.layers[0].quantize("int8")
    (op,) = read(model).graph.ops()
    assert op.type == "Dense[int8]"
    model = sequential((8,), layers.Dense(4))
    model.layers[0].enable_lora(2)
    (op,) = read(model).graph.ops()
    assert op.type == "Dense[lora]"


def test_a_layer_that_computes_in_integers_is_not_the_plain_one() -> None:
    graph = read(sequential((8,), layers.Rescaling(2, dtype="int32"), layers.Identity(dtype="float16"))).graph
    assert [op.type for op in graph.ops()] == ["Rescaling[int32]", "Identity"]


def test_operations_on_tensors_list_their_constant() -> None:
    x = Input((4,), name="x")
    y = 3.0 - x * np.float32([1, 2, 3, 4])
    graph = read(keras.Model(x, keras.ops.relu(y))).graph
    multiply, subtract, relu = graph.ops()
    assert [op.type for op in graph.ops()] == ["ops.Multiply", "ops.Subtract", "ops.Relu"]
    np.testing.assert_array_equal(graph.params[multiply.inputs[1]].array(), [1, 2, 3, 4])
    assert graph.params[subtract.inputs[0]].array() == 3.0
    assert subtract.inputs[1] == multiply.outputs[0]
    assert relu.inputs == subtract.outputs


def test_an_activation_that_is_a_layer_is_an_operator_of_that_layer() -> None:
    graph = read(sequential((4,), layers.Dense(3, activation=layers.LeakyReLU(negative_slope=0.3)))).graph
    dense, activation = graph.ops()
    assert activation.type == "LeakyReLU"
    assert activation.attributes["negative_slope"] == pytest.approx(0.3)
    assert activation.origin == dense.origin


def test_a_mask_or_state_comes_after_the_weights() -> None:
    x, hidden, cell = Input((5, 4), name="x"), Input((3,), name="hidden"), Input((3,), name="cell")
    graph, op = only(keras.Model([x, hidden, cell], layers.LSTM(3)(x, initial_state=[hidden, cell])), "LSTM")
    assert (op.inputs[0], op.inputs[4], op.inputs[5]) == ("x", "hidden", "cell")
    assert all(name in graph.params for name in op.inputs[1:4])


def test_a_subclassed_model_is_refused_by_name() -> None:
    class Written(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ModelFileError, match="subclassed model, Written"):
        read(Written())


def test_a_functional_model_with_a_call_of_its_own_is_refused() -> None:
    class Twice(keras.Model):
        def call(self, inputs):
            return 2 * super().call(inputs)

    x = Input((4,))
    with pytest.raises(ModelFileError, match="Twice"):
        read(Twice(x, layers.Dense(3)(x)))


def test_a_subclass_of_functional_that_changes_nothing_is_read() -> None:
    class Plain(keras.Model):
        pass

    x = Input((4,))
    assert [op.type for op in read(Plain(x, layers.Dense(3)(x))).graph.ops()] == ["Dense"]


def test_a_sequential_without_an_input_shape_is_refused() -> None:
    with pytest.raises(ModelFileError, match="input shape"):
        read(keras.Sequential([layers.Dense(3)]))


def test_the_parameter_account_is_that_of_the_summary() -> None:
    model = keras.Sequential(
        [
            Input((28, 28)),
            layers.Flatten(),
            layers.BatchNormalization(),
            layers.Dense(300, activation="elu"),
            layers.BatchNormalization(),
            layers.Dense(100, activation="elu"),
            layers.BatchNormalization(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    account = read(model).parameter_account()
    assert (account.total, account.trainable, account.non_trainable) == (271_346, 268_978, 2_368)
    assert account.batchnorm == 4 * (784 + 300 + 100)
    lines: list[str] = []
    model.summary(print_fn=lambda line, **_: lines.append(line))
    assert f"{account.total:,}" in "".join(lines)


def test_shared_weights_are_counted_once_and_frozen_ones_as_such() -> None:
    model = shared_tower()
    model.get_layer("tower").trainable = False
    account = read(model).parameter_account()
    assert account.total == model.count_params() == (4 * 6 + 6) + 24 + (6 * 2 + 2)
    assert account.trainable == 6 * 2 + 2
