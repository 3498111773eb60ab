"""Models that differ where outputs hide it, and right rewritings that look wrong."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes
from verification_models import model, verify, weight, with_weight

import bnfold
from bnfold.verification import smallest_failing

node = helper.make_node
KIND = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


def conv(factor=1.0, kind="float32", larger=1.0, channels=16):
    rng = np.random.default_rng(1)
    values = rng.standard_normal((channels, 3, 3, 3)) / 5
    values[0] *= larger
    values[2] *= factor
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["y"])]
    types = {"x": KIND[kind], "y": KIND[kind]}
    return model(nodes, {"x": ["N", 3, 16, 16]}, ["y"], {"w": values.astype(kind)}, types=types)


@pytest.mark.parametrize("off", [1e-2, 5e-3, 1e-3])
@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_one_of_many_channels_is_off(kind, off):
    check = verify(conv(kind=kind), conv(1 + off, kind))
    assert check.verdict == "different"
    assert "index 2 of axis 1" in check.reason or "index 2 of axis 1" in check.sentence()


@pytest.mark.parametrize("kind", ["float32", "float16"])
@pytest.mark.parametrize("seed", range(5))
def test_weights_that_are_rounded_anew_are_not_off(kind, seed):
    original = conv(kind=kind)
    factor = np.random.default_rng(seed).uniform(0.5, 1.5, (16, 1, 1)).astype(kind)
    apart = with_weight(original, "k", factor)
    del apart.graph.node[:]
    apart.graph.node.extend(
        [node("Conv", ["x", "w"], ["c"]), node("Mul", ["c", "k"], ["m"]), node("Relu", ["m"], ["y"])]
    )
    values = weight(original, "w").astype("f8") * factor.reshape(16, 1, 1, 1).astype("f8")
    assert verify(apart, with_weight(original, "w", values.astype(kind))).equivalent
    values[7] *= 1.002
    assert verify(apart, with_weight(original, "w", values.astype(kind))).verdict == "different"


@pytest.mark.parametrize("larger", [1e4, 1e5])
def test_a_channel_beside_one_that_is_larger_by_far(larger):
    assert verify(conv(larger=larger), conv(1.005, larger=larger)).verdict == "different"
    assert verify(conv(larger=larger), conv(larger=larger)).verdict == "equal"


def loop(carries):
    body = helper.make_graph(
        [
            node("MatMul", ["z" if carries else "x", "w"], ["m"]),
            node("Tanh", ["m"], ["t"]),
            node("Identity", ["on"], ["go"]),
        ],
        "body",
        [
            helper.make_tensor_value_info(name, kind, shape)
            for name, kind, shape in (("i", 7, []), ("on", 9, []), ("z", 1, [2, 4]))
        ],
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in (("go", 9, []), ("t", 1, [2, 4]))],
    )
    values = np.random.default_rng(3).standard_normal((4, 4)).astype(np.float32)
    nodes = [node("Loop", ["n", "", "x"], ["y"], body=body)]
    return model(nodes, {"x": [2, 4], "n": []}, ["y"], {"w": values}, types={"n": TensorProto.INT64})


def test_loops_run_more_than_once():
    assert verify(loop(True), loop(True)).equivalent
    assert verify(loop(True), loop(False)).verdict == "different"


def test_both_branches_are_taken():
    def branching(other):
        bodies = [
            helper.make_graph(
                [node(kind, ["x"], [name])], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
            )
            for kind, name in (("Neg", "a"), (other, "b"))
        ]
        nodes = [node("If", ["yes"], ["y"], then_branch=bodies[0], else_branch=bodies[1])]
        return model(nodes, {"x": [3], "yes": []}, ["y"], types={"yes": TensorProto.BOOL})

    assert verify(branching("Abs"), branching("Abs")).equivalent
    assert verify(branching("Abs"), branching("Relu")).verdict == "different"


def test_indices_that_are_computed_reach_the_whole_table():
    def gather(factor):
        table = np.random.default_rng(4).standard_normal((50, 8)).astype(np.float32)
        table[10:] *= factor
        nodes = [node("Abs", ["i"], ["j"]), node("Gather", ["t", "j"], ["y"])]
        return model(nodes, {"i": ["N", "L"]}, ["y"], {"t": table}, types={"i": TensorProto.INT64})

    assert verify(gather(1), gather(1)).equivalent
    assert verify(gather(1), gather(2)).verdict == "different"


def test_weights_that_may_be_overridden_mean_the_same():
    def overridable(factor, k):
        nodes = [node("Mul", ["x", "w"], ["m"]), node("Mul", ["m", "k"], ["y"])]
        proto = model(nodes, {"x": [4], "w": [4]}, ["y"], {"w": np.full(4, factor, "f"), "k": np.float32(k)})
        assert [value.name for value in proto.graph.input] == ["x", "w"]
        return proto

    assert verify(overridable(1, 2), overridable(1, 2)).verdict == "equal"
    assert verify(overridable(1, 2), overridable(2, 1)).verdict == "different"


# -- right, though it looks wrong ----------------------------------------------------------------


def batchnorm(x, y, name="n"):
    return node("BatchNormalization", [x, f"{name}g", f"{name}b", f"{name}m", f"{name}v"], [y], name=name)


def statistics(channels, seed=0, name="n", dtype=np.float32):
    rng = np.random.default_rng(seed)
    spans = {"g": (0.5, 1.5), "b": (-1, 1), "m": (-1, 1), "v": (0.3, 2)}
    return {name + key: rng.uniform(*span, channels).astype(dtype) for key, span in spans.items()}


def assert_folds(proto, **settings):
    proto = infer_shapes(proto)  # for the shapes of the outputs
    result = bnfold.fold(proto)
    assert result.plan.steps
    check = verify(proto, result.model, intermediates=True, **settings)
    assert check.equivalent, check.sentence()
    assert check.exactness is not None
    foreign = verify(proto, result.model.to_proto(), **settings)
    assert foreign.equivalent, foreign.sentence()
    return result, check


def draw(*shape, seed=5):
    return (np.random.default_rng(seed).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_a_shift_that_a_normalisation_cancels(seed):
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Relu", ["a"], ["r"]),
        node("Add", ["r", "k"], ["d"]),
        node("LayerNormalization", ["d", "s", "o"], ["y"], axis=-1),
    ]
    weights = {"w": draw(16, 16, seed=seed), "s": draw(16), "o": draw(16, seed=6), "k": np.float32([0.7 + seed])}
    assert_folds(model(nodes, {"x": ["N", 12, 16]}, ["y"], weights))


@pytest.mark.parametrize("size", [32, 64])
def test_quantised_outputs(size):
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        batchnorm("c", "d"),
        node("QuantizeLinear", ["d", "qs", "qz"], ["q"]),
        node("DequantizeLinear", ["q", "qs", "qz"], ["y"]),
    ]
    quantiser = {"qs": np.float32(0.02), "qz": np.uint8(128)}
    weights = {"w": draw(8, 3, 3, 3), **statistics(8), **quantiser}
    assert_folds(model(nodes, {"x": ["N", 3, size, size]}, ["y"], weights))


def test_numbers_drawn_at_random_are_the_same_in_both():
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        batchnorm("c", "d"),
        node("RandomNormalLike", ["d"], ["r"]),
        node("Add", ["d", "r"], ["y"]),
    ]
    proto = model(nodes, {"x": ["N", 4, 9, 9]}, ["y"], {"w": draw(6, 4, 3, 3), **statistics(6)})
    _, check = assert_folds(proto)
    assert check.outputs[0].result_error < 1e-5
    assert verify(proto, proto).verdict == "equal"


def taken_in(weights):
    """The kernel with the BN behind it, and the bias, in the kernel's type."""
    gamma, beta, mean, var = (weights[f"n{key}"].astype("f8") for key in "gbmv")
    scale = gamma / np.sqrt(var + np.float64(np.float32(1e-5)))
    dtype = weights["w"].dtype
    kernel = weights["w"].astype("f8") * scale[:, None, None, None]
    return {"w": kernel.astype(dtype), "b": (beta - mean * scale).astype(dtype)}


def test_roundings_that_the_runtime_leaves_out_are_not_held_against_the_result():
    """onnxruntime computes a float16 Conv in float32 and drops its Cast: the original is exact by luck."""
    nodes = [
        node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        node("Conv", ["h", "w"], ["c"]),
        node("Cast", ["c"], ["e"], to=TensorProto.FLOAT),
        batchnorm("e", "y"),
    ]
    weights = {"w": draw(8, 4, 3, 3).astype(np.float16), **statistics(8)}
    short = taken_in(weights)
    plain = [nodes[0], node("Conv", ["h", "w", "b"], ["c"]), node("Cast", ["c"], ["y"], to=TensorProto.FLOAT)]
    shape = {"x": ["N", 4, 16, 16]}
    check = verify(infer_shapes(model(nodes, shape, ["y"], weights)), model(plain, shape, ["y"], short))
    assert check.equivalent
    assert check.outputs[0].result_error < 1e-3
    assert "accurate to its types" in check.sentence()


@pytest.mark.parametrize("kinds", [(TensorProto.FLOAT16, 1), (TensorProto.BFLOAT16, 1)])
def test_mixed_precision(kinds):
    """The BN is in float32 behind a Cast to a shorter type and back."""
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Cast", ["c"], ["h"], to=kinds[0]),
        node("Cast", ["h"], ["e"], to=kinds[1]),
        batchnorm("e", "y"),
    ]
    weights, shape = {"w": draw(8, 4, 3, 3), **statistics(8)}, {"x": ["N", 4, 16, 16]}
    plain = [node("Conv", ["x", "w", "b"], ["c"]), nodes[1], node("Cast", ["h"], ["y"], to=kinds[1])]
    original = infer_shapes(model(nodes, shape, ["y"], weights))
    assert verify(original, model(plain, shape, ["y"], taken_in(weights))).equivalent
    wrong = taken_in(weights)
    wrong["w"][3] *= np.float32(1.001)
    assert verify(original, model(plain, shape, ["y"], wrong)).verdict == "different"


def deep(count=250, channels=8):
    """Every layer doubles what rounding does: the outputs hold little else."""
    rng = np.random.default_rng(0)
    nodes, weights, x = [], {}, "x"
    for index in range(count):
        weights[f"w{index}"] = (rng.normal(0, 0.2, (channels, channels, 3, 3))).astype(np.float32)
        weights.update(statistics(channels, index, f"n{index}"))
        nodes.append(node("Conv", [x, f"w{index}"], [f"c{index}"], name=f"conv{index}", pads=[1] * 4))
        nodes += [batchnorm(f"c{index}", f"z{index}", f"n{index}"), node("Relu", [f"z{index}"], [f"y{index}"])]
        x = f"y{index}"
    return model(nodes, {"x": [1, channels, 16, 16]}, [x], weights)


@pytest.mark.slow
def test_a_net_whose_outputs_are_its_own_rounding_is_verified_part_by_part():
    proto = deep()
    result, check = assert_folds(proto)
    assert check.outputs[0].original_error > 0.1
    assert check.exactness.parts > 100
    assert any(note.startswith("not verifiable by its outputs: its own rounding is") for note in check.notes)
    wrong = result.model.to_proto()
    last = next(item for item in wrong.graph.node if item.name == "conv249")
    tensor = next(item for item in wrong.graph.initializer if item.name == last.input[1])
    values = numpy_helper.to_array(tensor).copy()
    values[0] *= np.float32(1.01)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    assert verify(proto, wrong).verdict == "different"


def test_what_the_runtime_cannot_run_is_compared_in_float64():
    """bfloat16: onnxruntime has no Conv for it here."""
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    nodes = [node("Conv", ["x", "w"], ["c"], name="conv"), batchnorm("c", "y")]
    types = {"x": TensorProto.BFLOAT16, "y": TensorProto.BFLOAT16}
    weights = {"w": draw(8, 4, 3, 3).astype(bfloat16), **statistics(8, dtype=bfloat16)}
    proto = model(nodes, {"x": ["N", 4, 9, 9]}, ["y"], weights, types=types, opset=22)
    proto = infer_shapes(proto)
    result = bnfold.fold(proto)
    check = verify(proto, result.model, intermediates=True)
    assert check.equivalent
    assert "onnxruntime cannot load" in check.notes[0]
    assert not check.outputs
    name = next(name for name, param in result.model.graph.params.items() if len(param.shape) == 4)
    factor = np.ones((8, 1, 1, 1))
    factor[3] = 1.001
    result.model.graph.params[name] = result.model.graph.params[name].scaled(factor)
    wrong = verify(proto, result.model, intermediates=True)
    assert wrong.verdict == "different"
    assert wrong.first_difference.tensor == "y"


def test_what_cannot_be_evaluated_is_judged_by_noise():
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Trilu", ["c"], ["y"], domain="com.microsoft")]
    proto = model(nodes, {"x": ["N", 4, 9, 9]}, ["y"], {"w": draw(8, 4, 3, 3)})
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    check = verify(proto, with_weight(proto, "w", np.nextafter(weight(proto, "w"), np.float32(0))))
    assert check.equivalent
    assert check.exactness is None
    assert "judged by rounding noise, not in float64: com.microsoft.Trilu is not known here" in check.notes
    assert verify(proto, with_weight(proto, "w", weight(proto, "w") * np.float32(1.1))).verdict == "different"


def scaled_gru(scale=None, factor=1.0, dtype="float64", last="Identity"):
    """A GRU behind a scale, or with the scale in its weights; onnxruntime loads it in double, but does not run it."""
    rng = np.random.default_rng(0)
    weights, recurrent, own = rng.standard_normal((1, 9, 4)), rng.standard_normal((1, 9, 3)), rng.uniform(0.5, 1.5, 4)
    weights[:, 5] *= factor
    nodes = [node("Mul", ["x", "s"], ["m"])] if scale else []
    read = "m" if scale else "x"
    nodes += [node("GRU", [read, "w", "r"], ["h"], hidden_size=3), node(last, ["h"], ["y"])]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    values = {"s": own} if scale else {}
    values |= {"w": weights if scale else weights * own, "r": recurrent}
    values = {name: value.astype(dtype) for name, value in values.items()}
    return model(nodes, {"x": [5, 2, 4]}, ["y"], values, types={"x": kind, "y": kind})


def test_what_the_runtime_fails_on_when_it_runs_is_compared_in_float64():
    check = verify(scaled_gru("s"), scaled_gru())
    assert check.verdict == "within rounding"
    assert not check.outputs
    assert check.notes[0].startswith(
        "compared in float64 alone, and the accuracy not measured: the original itself fails"
    )
    assert verify(scaled_gru("s"), scaled_gru(factor=1.001)).verdict == "different"
    # Where the runtime runs it the accuracy is asked about as well.
    assert verify(scaled_gru("s", dtype="float32"), scaled_gru(dtype="float32")).outputs


def test_a_failure_of_the_second_models_own_is_one_though_the_original_fails_too():
    unknown = verify(scaled_gru("s"), scaled_gru(last="Nonsense"))
    assert unknown.verdict == "different"
    assert "onnxruntime cannot load the second model" in unknown.reason
    assert "but of the original it says: Non-zero status code returned while running GRU node" in unknown.reason


def test_the_steps_at_fault_are_found_in_what_the_runtime_fails_on():
    def refold(kept):
        return scaled_gru("" if "fold" in kept else "s", 1.001 if "spoil" in kept else 1.0)

    assert smallest_failing(["fold", "spoil"], refold) == ("spoil",)
    assert smallest_failing(["fold"], refold) == ()
