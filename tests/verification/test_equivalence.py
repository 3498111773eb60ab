"""verify(): right rewritings are accepted, planted faults are not."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from verification_models import cnn, folded, model, verify, weight, with_weight

from bnfold.errors import ModelFileError, UsageError
from bnfold.verification.equivalence import compare
from bnfold.verification.localise import first_differing
from bnfold.verification.noise.judge import NoiseJudge
from bnfold.verification.output_check import Tolerance
from bnfold.verification.reference import Reference
from bnfold.verification.runtime.onnx_file import OnnxFile
from bnfold.verification.runtime.sessions import Candidate
from bnfold.verification.verdict import Judgement, OutputCheck
from bnfold.verification.verify_options import VerifyOptions


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs, outputs, **attributes)


def linear(weights, nodes, inputs=None, **options):
    return model(nodes, inputs or {"x": ["N", 8]}, ["y"], weights, **options)


# -- what is right -------------------------------------------------------------------------------


def test_a_model_equals_itself_bit_for_bit():
    check = verify(cnn(), cnn())
    assert check.equivalent
    assert check.verdict == "equal"
    assert check.feeds.count >= 3
    assert check.sentence().endswith("equal bit for bit")


def test_a_right_fold_is_within_rounding():
    check = verify(cnn(), folded(cnn()))
    assert check.verdict == "within rounding"
    assert 0 < check.outputs[0].max_rel < 1e-6
    assert check.outputs[0].snr_db > 100
    assert check.sentence().startswith(f"verified in {check.seconds:.1f} s, {check.feeds.count} feeds")
    mine, theirs = check.outputs[0].original_error, check.outputs[0].result_error
    errors = f"{theirs:.1e} of the range from exact, the original {mine:.1e}"
    assert check.sentence().endswith(f": as accurate as the original: {errors}")
    assert check.exactness is not None
    for seconds, words in ((3.21, " (3.2 s of it in float64):"), (0.01, " feeds:")):
        told = replace(check, exactness=replace(check.exactness, seconds=seconds)).sentence()
        assert words in told, "what took no time is not told"


def test_a_right_fold_passes_strictly_and_inside():
    check = verify(cnn(), folded(cnn()), strict=True, intermediates=True)
    assert check.equivalent
    assert check.outputs[0].factor <= 1
    assert 0 < check.outputs[0].result_error < 1e-6


def test_reassociated_arithmetic_is_within_rounding():
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal((8, 8)).astype(np.float32) for _ in range(2))
    apart = linear({"a": first, "b": second}, [node("MatMul", ["x", "a"], ["h"]), node("MatMul", ["h", "b"], ["y"])])
    product = (first.astype(np.float64) @ second.astype(np.float64)).astype(np.float32)
    together = linear({"ab": product}, [node("MatMul", ["x", "ab"], ["y"])])
    assert verify(apart, together).verdict == "within rounding"


def cancelling(weights, offset):
    """y = (x·W + offset) − offset: float32 keeps few digits of x·W."""
    return linear(
        {"w": weights, "o": np.full(8, offset, np.float32)},
        [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "o"], ["p"]), node("Sub", ["p", "o"], ["y"])],
    )


def test_cancellation_is_accepted_as_far_as_it_is_the_originals_own():
    weights = np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32)
    plain = linear({"w": weights}, [node("MatMul", ["x", "w"], ["y"])])
    check = verify(cancelling(weights, 30_000.0), plain)
    assert check.verdict == "within rounding"
    assert check.outputs[0].max_abs > 1e-4
    assert check.outputs[0].original_error > 5e-7

    # The same difference from an original that does not cancel is a fault.
    backwards = verify(plain, cancelling(weights, 30_000.0))
    assert backwards.verdict == "less accurate"
    assert not backwards.equivalent
    assert "times as far from exact as in the original" in backwards.sentence()
    assert backwards.outputs[0].max_abs == pytest.approx(check.outputs[0].max_abs, rel=0.5)


def test_a_fault_larger_than_the_cancellation_is_different():
    weights = np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32)
    wrong = weights.copy()
    wrong[:, 3] *= 1.01
    assert verify(cancelling(weights, 30_000.0), linear({"w": wrong}, [node("MatMul", ["x", "w"], ["y"])])).verdict == (
        "different"
    )


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_one_number_for_an_output_is_judged_by_many_measurements(scale):
    """The noise of a single value may be 0 by chance; several seeds must not cry wolf."""
    rng = np.random.default_rng(2)
    weights = (rng.standard_normal((8, 1)) * scale).astype(np.float32)
    gain, shift = np.float32(1.7), np.float32(0.3 * scale)
    apart = linear(
        {"w": weights, "g": gain, "s": shift},
        [node("MatMul", ["x", "w"], ["h"]), node("Mul", ["h", "g"], ["m"]), node("Add", ["m", "s"], ["y"])],
        {"x": [1, 8]},
    )
    together = linear(
        {"w": (weights.astype(np.float64) * gain).astype(np.float32), "s": shift},
        [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "s"], ["y"])],
        {"x": [1, 8]},
    )
    assert all(verify(apart, together, seed=seed, strict=True).equivalent for seed in range(5))


# -- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["w1", "w2", "bias1", "bias2"])
@pytest.mark.parametrize("channel", range(6))
def test_one_channel_scaled_by_a_thousandth_more_is_found_inside(name, channel):
    """Behind a ReLU that rarely fires the outputs hardly show it; the Conv's own output does."""
    wrong = folded(cnn())
    values = weight(wrong, name)
    values[channel] *= np.float32(1.001)
    check = verify(cnn(), with_weight(wrong, name, values), intermediates=True)
    assert check.verdict == "different"
    assert check.first_difference.tensor == f"b{name[-1]}"
    assert check.first_difference.node == f"conv{name[-1]}"
    assert "first difference: tensor" in check.sentence()


def test_each_output_says_what_is_known_of_it():
    """A fault in the first layer, one in an output, and one that no output shows."""

    def off(proto, name, channel=...):
        values = weight(proto, name)
        values[channel] *= np.float32(1.1)
        return with_weight(proto, name, values)

    first = verify(cnn(), off(folded(cnn()), "w1"), intermediates=True)
    assert (first.verdict, first.outputs[0].ok, first.outputs[0].sentence()) == ("different", None, "not equal")
    assert "agree" not in first.sentence(), "y is off by 6 % of its range"
    assert first.to_dict()["outputs"][0]["ok"] is None
    last = verify(cnn(), off(folded(cnn()), "w3"), intermediates=True)
    assert (last.verdict, last.outputs[0].ok, last.outputs[0].sentence()) == ("different", False, last.reason)
    shut = with_weight(cnn(), "beta1", np.float32([0, 0, -1e4, 0, 0, 0]))
    hidden = verify(shut, off(shut, "w1", 2), intermediates=True)
    assert (hidden.verdict, hidden.outputs[0].ok, hidden.outputs[0].sentence()) == ("different", True, "equal")
    assert "the outputs agree on these feeds, but inside" in hidden.sentence()


def test_of_two_outputs_the_one_at_fault_is_named():
    names = {"v": "y", "w": "z"}
    weights = {
        name: np.random.default_rng(len(out)).standard_normal((8, 4)).astype(np.float32) for name, out in names.items()
    }
    nodes = [node("MatMul", ["x", name], [out]) for name, out in names.items()]
    wrong = {**weights, "w": weights["w"] * np.float32(1.001)}
    check = verify(*(model(nodes, {"x": ["N", 8]}, ["y", "z"], values) for values in (weights, wrong)))
    assert [output.ok for output in check.outputs] == [True, False]
    assert check.outputs[1].sentence() == check.reason


def test_a_tolerance_is_told_where_one_was_asked_about():
    assert verify(cnn(), folded(cnn())).outputs[0].tolerance is None
    assert verify(cnn(), folded(cnn()), rtol=1e-3).outputs[0].tolerance == pytest.approx(1e-3)
    assert verify(cnn(), folded(cnn()), strict=True).outputs[0].tolerance == pytest.approx(1e-4)


def swapped(proto):
    """A scale meant for the output channels applied to the input channels, whose number is the same."""
    values = weight(proto, "w2")
    scale = np.linspace(0.5, 2.0, len(values), dtype=np.float32)
    right = with_weight(proto, "w2", values * scale[:, None, None, None])
    return right, with_weight(proto, "w2", values * scale[None, :, None, None])


def test_a_scale_on_the_wrong_axis_is_different():
    right, wrong = swapped(folded(cnn()))
    check = verify(right, wrong)
    assert check.verdict == "different"
    assert check.outputs[0].factor > 1e3
    assert check.first_difference.tensor == "b2"


def test_a_missing_bias_is_different():
    wrong = folded(cnn())
    check = verify(cnn(), with_weight(wrong, "bias1", np.zeros(6, np.float32)))
    assert check.verdict == "different"
    assert check.first_difference.node == "conv1"


def test_a_relu_that_went_missing_is_different():
    wrong = folded(cnn())
    position = next(i for i, item in enumerate(wrong.graph.node) if item.name == "relu2")
    wrong.graph.node[position].op_type = "Identity"
    check = verify(cnn(), wrong)
    assert check.verdict == "different"
    assert (check.first_difference.tensor, check.first_difference.op_type) == ("r2", "Identity")


def test_a_border_padded_with_another_value_is_different():
    """Only negative inputs show that a border of zeros became one of minus infinity."""
    padded = model(
        [node("Pad", ["x", "p"], ["q"]), node("MaxPool", ["q"], ["y"], kernel_shape=[3, 3])],
        {"x": [1, 2, 6, 6]},
        ["y"],
        {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
    )
    fused = model([node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1] * 4)], {"x": [1, 2, 6, 6]}, ["y"])
    check = verify(padded, fused)
    assert check.verdict == "different"
    assert "-1 to 0" in check.outputs[0].feed


@pytest.mark.parametrize("first", [True, False])
def test_nan_in_other_places_is_different(first):
    whole = linear({"s": np.ones(8, np.float32)}, [node("Mul", ["x", "s"], ["y"])])
    holed = linear({"s": np.array([1, np.nan] + [1] * 6, np.float32)}, [node("Mul", ["x", "s"], ["y"])])
    check = verify(*((whole, holed) if first else (holed, whole)))
    assert check.verdict == "different"
    assert not check.outputs[0].nonfinite_agree
    assert "NaN or infinity" in check.reason


def test_nan_and_infinity_in_the_same_places_agree():
    holed = linear({"s": np.array([1, np.nan, np.inf] + [1] * 5, np.float32)}, [node("Mul", ["x", "s"], ["y"])])
    assert verify(holed, holed).verdict == "equal"


def test_an_infinity_of_the_other_sign_is_different():
    up, down = (
        linear({"s": np.array([sign * np.inf] + [1] * 7, np.float32)}, [node("Mul", ["x", "s"], ["y"])])
        for sign in (1, -1)
    )
    assert verify(up, down).verdict == "different"


def test_nothing_but_nan_is_not_verified():
    broken = linear({"s": np.full(8, np.nan, np.float32)}, [node("Mul", ["x", "s"], ["y"])])
    check = verify(broken, broken)
    assert check.verdict == "not verified"
    assert not check.equivalent
    assert "nothing but NaN" in check.reason


def test_an_output_that_never_varies_is_remarked_on():
    dead = linear({"z": np.zeros(8, np.float32)}, [node("Mul", ["x", "z"], ["m"]), node("Abs", ["m"], ["y"])])
    check = verify(dead, dead)
    assert check.equivalent
    assert any("y is 0 throughout" in note for note in check.notes)
    assert not verify(cnn(), cnn()).notes


# -- discrete outputs ----------------------------------------------------------------------------


def classifier(weights, kind="ArgMax"):
    return model(
        [node("MatMul", ["x", "w"], ["h"]), node(kind, ["h"], ["y"], axis=1)],
        {"x": ["N", 8]},
        ["y"],
        {"w": weights},
        types={"y": TensorProto.INT64},
    )


def test_labels_that_flip_for_no_reason_are_different():
    weights = np.random.default_rng(3).standard_normal((8, 10)).astype(np.float32)
    check = verify(classifier(weights), classifier(-weights))
    assert check.verdict == "different"
    assert check.outputs[0].mismatches > 0
    assert "values of y differ" in check.reason
    assert check.first_difference.tensor == "h"


def ties(jolt=0.0):
    """1000 sums of which every second is a near tie: rounding decides whether it is positive."""
    rng = np.random.default_rng(4)
    weights = rng.standard_normal((8, 1000))
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("MatMul", ["x", "v"], ["g"]),
        node("Greater", ["h", "g"], ["y"]),
    ]
    values = {"w": weights.astype(np.float32), "v": (weights * (1 + jolt)).astype(np.float32)}
    return linear(values, nodes, types={"y": TensorProto.BOOL})


def test_flips_at_ties_are_within_rounding_but_not_strictly():
    jolted = ties(3e-8)
    check = verify(jolted, ties(-3e-8))
    assert check.verdict == "within rounding"
    assert check.outputs[0].mismatches > 0
    assert "flipped" in check.sentence()
    assert verify(jolted, ties(-3e-8), strict=True).verdict == "different"


# -- tolerances and dtypes -----------------------------------------------------------------------


def test_a_fixed_tolerance_overrides_the_noise():
    wrong = with_weight(cnn(), "w3", weight(cnn(), "w3") * np.float32(1.001))
    assert verify(cnn(), wrong).verdict == "different"
    assert verify(cnn(), wrong, rtol=1e-2).verdict == "within rounding"
    assert verify(cnn(), wrong, rtol=1e-5).verdict == "different"
    assert verify(cnn(), wrong, atol=1e3).verdict == "within rounding"
    strictly = verify(cnn(), wrong, rtol=1e-2, strict=True)
    assert strictly.verdict == "different"
    assert strictly.outputs[0].factor > 4


def test_a_tolerance_below_rounding_refuses_what_rounding_explains():
    check = verify(cnn(), folded(cnn()), rtol=1e-12)
    assert check.verdict == "different"
    assert "tolerance 1.0e-12" in check.reason


@pytest.mark.parametrize(
    ("dtype", "kind", "ulp"), [("float64", TensorProto.DOUBLE, 2.0**-52), ("float16", TensorProto.FLOAT16, 2.0**-10)]
)
def test_other_precisions_are_judged_by_their_own_rounding(dtype, kind, ulp):
    rng = np.random.default_rng(5)
    weights = rng.standard_normal((8, 8)).astype(dtype)

    def scaled(factor):
        types = {"x": kind, "y": kind}
        return linear({"w": (weights * factor).astype(dtype)}, [node("MatMul", ["x", "w"], ["y"])], types=types)

    def rounded():
        moved = weights.astype("f8") * (1 + ulp / 2 * rng.uniform(-1, 1, weights.shape))
        types = {"x": kind, "y": kind}
        return linear({"w": moved.astype(dtype)}, [node("MatMul", ["x", "w"], ["y"])], types=types)

    assert verify(scaled(1.0), rounded()).equivalent
    assert not verify(scaled(1.0), scaled(1.0 + 200 * ulp)).equivalent


def test_bfloat16_inputs_and_outputs_are_compared():
    types = {"x": TensorProto.BFLOAT16, "y": TensorProto.BFLOAT16}

    def scaled(factor):
        nodes = [
            node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
            node("Mul", ["f", "s"], ["m"]),
            node("Cast", ["m"], ["y"], to=TensorProto.BFLOAT16),
        ]
        return linear({"s": np.float32(factor)}, nodes, types=types)

    check = verify(scaled(1.5), scaled(1.5))
    assert check.verdict == "equal"
    assert check.outputs[0].dtype == "bfloat16"
    assert verify(scaled(1.5), scaled(1.6)).verdict == "different"


# -- interfaces ----------------------------------------------------------------------------------


def renamed(proto, old, new):
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for item in changed.graph.node:
        item.input[:] = [new if name == old else name for name in item.input]
        item.output[:] = [new if name == old else name for name in item.output]
    for value in (*changed.graph.input, *changed.graph.output):
        value.name = new if value.name == old else value.name
    return changed


def test_inputs_and_outputs_may_have_other_names():
    assert verify(cnn(), renamed(renamed(folded(cnn()), "x", "image"), "y", "logits")).equivalent


def test_outputs_are_paired_by_name_whatever_their_order():
    nodes = [node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["z"])]
    straight, crossed = (model(nodes, {"x": ["N", 3]}, names) for names in (["y", "z"], ["z", "y"]))
    assert verify(straight, crossed).verdict == "equal"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.graph.output.add().CopyFrom(helper.make_tensor_value_info("p", 1, None)), "one more output, 'p'"),
        (lambda m: m.graph.input.add().CopyFrom(helper.make_tensor_value_info("k", 1, [1])), "one more input, 'k'"),
        (lambda m: m.graph.input[0].type.tensor_type.shape.dim.add(), "rank 5"),
    ],
)
def test_another_interface_is_different_and_says_how(change, words):
    changed = cnn()
    change(changed)
    check = verify(cnn(), changed)
    assert check.verdict == "different"
    assert words in check.reason or "cannot load" in check.reason


def test_an_output_that_is_missing_is_named():
    nodes = [node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["z"])]
    both, one = (model(nodes, {"x": ["N", 3]}, names) for names in (["y", "z"], ["y"]))
    assert "no output 'z'" in verify(both, one).reason


def test_another_dtype_is_different():
    first = model([node("Shape", ["x"], ["y"])], {"x": [2]}, ["y"], types={"y": TensorProto.INT64})
    nodes = [node("Shape", ["x"], ["s"]), node("Cast", ["s"], ["y"], to=TensorProto.FLOAT)]
    check = verify(first, model(nodes, {"x": [2]}, ["y"]))
    assert check.verdict == "different"
    assert "tensor(float)" in check.reason


def test_another_shape_is_different():
    first = model([node("Identity", ["x"], ["y"])], {"x": [2, 3]}, ["y"])
    second = model([node("Transpose", ["x"], ["y"])], {"x": [2, 3]}, ["y"])
    assert "shape [3, 2] instead of [2, 3]" in verify(first, second).reason


def overridable(proto, name):
    """The same with an initializer among the inputs, so that a caller may override it."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    changed.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, weight(proto, name).shape))
    return changed


def test_overridable_initializers_may_become_constants():
    assert verify(overridable(cnn(), "w1"), cnn()).verdict == "equal"


def test_an_override_that_the_second_model_does_not_take_is_different():
    feed = {"x": np.ones((1, 3, 8, 8), np.float32), "w1": np.zeros((6, 3, 3, 3), np.float32)}
    check = verify(overridable(cnn(), "w1"), cnn(), inputs=feed)
    assert check.verdict == "different"
    assert "'w1' is given as an input" in check.reason
    assert verify(overridable(cnn(), "w1"), overridable(cnn(), "w1"), inputs=feed).verdict == "equal"


def test_sequences_and_maps_are_compared_member_by_member():
    split = model([node("SplitToSequence", ["x", "one"], ["y"])], {"x": ["N", 3]}, ["y"], {"one": np.array(1)})
    del split.graph.output[:]
    split.graph.output.append(helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None))
    check = verify(split, split)
    assert check.verdict == "equal"
    assert {output.name for output in check.outputs} == {"y[0]", "y[1]", "y[2]"}


# -- not verified --------------------------------------------------------------------------------


def test_an_operator_nobody_knows_is_not_verified():
    custom = model([helper.make_node("Mystery", ["x"], ["y"], domain="my.own")], {"x": [1]}, ["y"])
    custom.opset_import.append(helper.make_opsetid("my.own", 1))
    check = verify(custom, custom)
    assert check.verdict == "not verified"
    assert "onnxruntime cannot load the original" in check.reason
    assert check.sentence().startswith("not verified: ")


def test_a_second_model_that_does_not_load_is_different():
    custom = model([helper.make_node("Mystery", ["x"], ["y"], domain="my.own")], {"x": [1]}, ["y"])
    custom.opset_import.append(helper.make_opsetid("my.own", 1))
    check = verify(model([node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"]), custom)
    assert check.verdict == "different"
    assert "onnxruntime cannot load the second model" in check.reason


def test_a_second_model_that_fails_where_the_original_runs_is_different():
    free = model([node("Identity", ["x"], ["y"])], {"x": ["N", 4]}, ["y"])
    baked = model([node("Reshape", ["x", "s"], ["y"])], {"x": ["N", 4]}, ["y"], {"s": np.array([1, 4])})
    check = verify(free, baked)
    assert check.verdict == "different"
    assert "fails on a feed that the original accepts (uniform 0 to 1, batch 2)" in check.reason


def test_an_original_that_fails_on_every_feed_is_not_verified():
    hopeless = model([node("Reshape", ["x", "s"], ["y"])], {"x": ["N", 4]}, ["y"], {"s": np.array([7, 11])})
    check = verify(hopeless, hopeless)
    assert check.verdict == "not verified"
    assert "the original itself fails on every feed" in check.reason


def test_inputs_too_large_to_feed_are_not_verified():
    huge = model([node("Relu", ["x"], ["y"])], {"x": [100_000, 100_000]}, ["y"])
    assert "too large" in verify(huge, huge).reason


# -- ways to give a model, and errors ------------------------------------------------------------


@dataclass
class Loaded:
    """A model as bnfold.load gives it, as far as verification looks at it."""

    proto: onnx.ModelProto
    path: Path | None = None

    def as_onnx(self, directory: Path) -> Path:
        target = directory / "written.onnx"
        target.write_bytes(self.proto.SerializeToString())
        return target


def test_a_model_may_be_a_path_bytes_a_proto_or_a_loaded_model(tmp_path):
    path = tmp_path / "cnn.onnx"
    path.write_bytes(cnn().SerializeToString())
    for given in (path, str(path), path.read_bytes(), cnn(), Loaded(cnn())):
        assert verify(given, folded(cnn())).equivalent


def test_a_missing_file_and_a_damaged_one_are_errors(tmp_path):
    with pytest.raises(ModelFileError, match=r"absent\.onnx: no such file"):
        verify(tmp_path / "absent.onnx", cnn())
    with pytest.raises(ModelFileError, match="not a file"):
        verify(cnn(), tmp_path)
    text = tmp_path / "text.onnx"
    text.write_text("this is not a model, whatever its name says")
    with pytest.raises(ModelFileError, match="not an ONNX model"):
        verify(text, cnn())


@pytest.mark.parametrize(
    "wrong",
    [{"rtol": -1.0}, {"atol": float("nan")}, {"seed": -1}, {"threads": 0}, {"feeds": 0}, {"provider": "Abacus"}],
)
def test_impossible_arguments_are_errors(wrong):
    with pytest.raises(UsageError):
        verify(cnn(), cnn(), **wrong)


def test_the_same_seed_gives_the_same_answer_and_another_seed_other_feeds():
    first, again, other = (verify(cnn(), folded(cnn()), seed=seed, threads=1) for seed in (0, 0, 1))
    assert first.outputs == again.outputs
    assert first.outputs[0].max_rel != other.outputs[0].max_rel


def test_the_number_of_feeds_can_be_set():
    assert verify(cnn(), cnn(), feeds=2).feeds.count == 2
    assert verify(cnn(), cnn(), feeds=11).feeds.count == 11


def test_random_operators_repeat_themselves():
    noisy = model([node("RandomNormalLike", ["x"], ["r"]), node("Add", ["x", "r"], ["y"])], {"x": [4]}, ["y"])
    assert verify(noisy, noisy).verdict == "equal"


def test_results_are_json_that_any_parser_reads():
    broken = with_weight(folded(cnn()), "bias1", np.full(6, np.nan, np.float32))
    for check in (verify(cnn(), folded(cnn())), verify(cnn(), broken)):
        data = json.loads(json.dumps(check.to_dict(), allow_nan=False))
        assert [entry["name"] for entry in data["outputs"]] == [output.name for output in check.outputs]
        assert data["verdict"] == check.verdict
        assert data["sentence"] == check.sentence()


class Suspicious:
    """A judge that calls everything different."""

    def doubts(self, item):
        return True

    def judge(self, case):
        count = len(case.reference.answers.feeds)
        assert len(case.outputs) in (0, count)  # none where tensors inside are judged
        assert case.candidate.model.name == "the second"
        assert all(set(by_feed) == set(range(count)) for by_feed in case.measured.values())
        names = case.measured
        checks = tuple(OutputCheck(name, "float32", False, False, reason=f"{name} looks odd") for name in names)
        return Judgement(checks, ("nothing is right",))


def test_another_judge_can_be_plugged_in(tmp_path):
    for name in ("first", "second"):
        (tmp_path / f"{name}.onnx").write_bytes(cnn().SerializeToString())
    first, second = (OnnxFile(tmp_path / f"{name}.onnx", f"the {name}") for name in ("first", "second"))
    reference = Reference(first, VerifyOptions(feeds=2))
    assert compare(reference, Candidate(second), NoiseJudge(Tolerance())).equivalent
    found = compare(reference, Candidate(second), Suspicious())
    assert (found.verdict, found.reason, found.notes) == ("different", "y looks odd", ("nothing is right",))
    inner = first_differing(reference, second, Suspicious())
    assert inner is not None
    assert inner.op_type == "Conv"
