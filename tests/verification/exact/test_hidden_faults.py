"""Faults where they are hard to see, and right models where numbers are hard: each pair with its verdict."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from verification_models import model, verify

node = helper.make_node
INT64 = TensorProto.INT64
f32 = np.float32


def draw(*shape, scale=1.0):
    return (np.random.default_rng(5).standard_normal(shape) * scale).astype(f32)


def info(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def rarely_alive(factor):
    """One channel of eight is above 0 in a few places alone."""
    kernel, bias = draw(8, 3, 3, 3, scale=0.2), np.zeros(8, f32)
    kernel[3] *= factor
    bias[3] = -4.5 * factor
    nodes = [node("Conv", ["x", "w", "b"], ["c"]), node("Relu", ["c"], ["y"])]
    return model(nodes, {"x": ["N", 3, 16, 16]}, ["y"], {"w": kernel, "b": bias})


def clipped(limit):
    return model([node("Clip", ["x", "", "h"], ["y"])], {"x": ["N", 4]}, ["y"], {"h": f32(limit)})


def first_of_batch(first):
    """The same as long as there is one example."""
    weights = {"i": np.array([0])} if first else {}
    read = "g" if first else "x"
    nodes = [node("Gather", ["x", "i"], ["g"])] if first else []
    return model(
        [*nodes, node("Sub", ["x", read], ["d"]), node("Add", ["d", "x"], ["y"])], {"x": ["N", 4]}, ["y"], weights
    )


def counting(step):
    """The first turn of the loop does not read ``step``."""
    nodes = [
        node("Cast", ["i"], ["f"], to=1),
        node("Mul", ["f", "k"], ["m"]),
        node("Add", ["m", "one"], ["s"]),
        node("Mul", ["z", "s"], ["t"]),
        node("Identity", ["on"], ["go"]),
    ]
    ins = [info("i", [], INT64), info("on", [], TensorProto.BOOL), info("z", [4])]
    body = helper.make_graph(nodes, "body", ins, [info("go", [], TensorProto.BOOL), info("t", [4])])
    weights = {"k": f32(step), "one": f32(1)}
    loop = node("Loop", ["n", "", "x"], ["y"], body=body)
    return model([loop], {"x": [4], "n": []}, ["y"], weights, types={"n": INT64})


def many_outputs(factor):
    weights = {f"w{index}": draw(6, 6) * f32(1 + index) for index in range(20)}
    weights["w17"][:, 2] *= f32(factor)
    names = [f"y{index}" for index in range(20)]
    nodes = [node("MatMul", ["x", f"w{index}"], [name]) for index, name in enumerate(names)]
    return model(nodes, {"x": ["N", 6]}, names, weights)


def decided(factor, kind, **attributes):
    """Only what is decided comes out."""
    weights = {"w": draw(6, 30)}
    weights["w"][:, 7] *= f32(factor)
    if kind == "TopK":
        weights["k"] = np.array([3])
    outputs = ["v", "y"] if kind == "TopK" else ["y"]
    nodes = [node("MatMul", ["x", "w"], ["h"]), node(kind, ["h", *(["k"] if "k" in weights else [])], outputs, axis=1)]
    return model(nodes, {"x": ["N", 6]}, ["y"], weights, types={"y": INT64})


def labelled(words, factor=1.0):
    weights = draw(6, 4)
    weights[:, 1] *= f32(factor)
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("ArgMax", ["h"], ["i"], axis=1, keepdims=0),
        node("Gather", ["t", "i"], ["y"]),
    ]
    table = helper.make_tensor("t", TensorProto.STRING, [4], [word.encode() for word in words])
    proto = model(nodes, {"x": ["N", 6]}, ["y"], {"w": weights}, types={"y": TensorProto.STRING})
    proto.graph.initializer.append(table)
    return proto


def in_a_sequence(factor):
    weights = {"w": np.array([1, 1, 1, 1, factor, 1], f32), "s": np.array([2, 2, 2])}
    nodes = [node("Mul", ["x", "w"], ["m"]), node("SplitToSequence", ["m", "s"], ["y"], axis=1)]
    proto = model(nodes, {"x": ["N", 6]}, ["y"], weights)
    proto.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None))
    return proto


def optional(factor):
    weights = {"w": np.array([1, 1, 1, 1, factor, 1], f32)}
    nodes = [node("Mul", ["x", "w"], ["m"]), node("Optional", ["m"], ["y"])]
    proto = model(nodes, {"x": ["N", 6]}, ["y"], weights, opset=18)
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 6]))
    proto.graph.output[0].CopyFrom(helper.make_value_info("y", kind))
    return proto


def quantised(scale=0.02, zero=0, factor=1.0):
    weights = {
        "s": f32(scale),
        "z": np.int8(zero),
        "w": np.clip(np.round(draw(8, 3, 3, 3) * 40), -127, 127).astype(np.int8),
        "ws": np.full(8, 0.01, f32),
        "wz": np.zeros(8, np.int8),
    }
    weights["ws"][2] *= f32(factor)
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["w", "ws", "wz"], ["v"], axis=0),
        node("Conv", ["d", "v"], ["y"]),
    ]
    return model(nodes, {"x": ["N", 3, 12, 12]}, ["y"], weights)


def part_of(stop):
    return model(
        [node("Slice", ["x", "a", "b"], ["y"])], {"x": ["N", 4]}, ["y"], {"a": np.array([0]), "b": np.array([stop])}
    )


def chain(*kinds, **weights):
    """Each operator reads the one before it, and the constant of its own if it has one: ``Mul:k``."""
    nodes, last = [], "x"
    for index, kind in enumerate(kinds):
        kind, _, constant = kind.partition(":")
        name = "y" if index == len(kinds) - 1 else f"t{index}"
        nodes.append(node(kind, [last, *([constant] if constant else [])], [name]))
        last = name
    return model(nodes, {"x": ["N", 4]}, ["y"], {name: f32(value) for name, value in weights.items()})


def in_one_branch(factor):
    bodies = [
        helper.make_graph([node("Mul", ["x", k], [n])], n, [], [info(n, None)]) for n, k in (("a", "k"), ("b", "l"))
    ]
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Greater", ["s", "z"], ["c"]),
        node("If", ["c"], ["y"], then_branch=bodies[0], else_branch=bodies[1]),
    ]
    return model(nodes, {"x": [5]}, ["y"], {"k": f32(1.5), "l": f32(1.7 * factor), "z": f32(0)})


def at_the_border(padded):
    """A shift before padding is none at the border."""
    kernel, shift = draw(4, 3, 3, 3), f32(0.01)
    if padded:
        nodes = [node("Add", ["x", "b"], ["a"]), node("Conv", ["a", "w"], ["y"], pads=[1] * 4)]
        return model(nodes, {"x": ["N", 3, 32, 32]}, ["y"], {"w": kernel, "b": shift})
    bias = (kernel.astype("f8").sum((1, 2, 3)) * np.float64(shift)).astype(f32)
    nodes = [node("Conv", ["x", "w", "b"], ["y"], pads=[1] * 4)]
    return model(nodes, {"x": ["N", 3, 32, 32]}, ["y"], {"w": kernel, "b": bias})


def saturated(factor):
    weights = draw(6, 10, scale=60)
    weights[:, 3] *= f32(factor)
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Softmax", ["h"], ["y"])]
    return model(nodes, {"x": ["N", 6]}, ["y"], {"w": weights})


def divided(rounds_down):
    kinds = [node("Mod", ["x", "k"], ["m"]), node("Sub", ["x", "m"], ["s"])] if rounds_down else []
    nodes = [*kinds, node("Div", ["s" if rounds_down else "x", "k"], ["y"])]
    return model(nodes, {"x": ["N", 4]}, ["y"], {"k": np.array(3)}, types={"x": INT64, "y": INT64})


def table(factor):
    rows = draw(200, 8)
    rows[199] *= f32(factor)
    return model([node("Gather", ["t", "i"], ["y"])], {"i": ["N"]}, ["y"], {"t": rows}, types={"i": INT64})


def hidden_units(order, back):
    first, second = draw(16, 64), draw(64, 10)
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("Tanh", ["h"], ["t"]), node("MatMul", ["t", "b"], ["y"])]
    return model(nodes, {"x": ["N", 16]}, ["y"], {"a": first[:, order], "b": second[back]})


def written_out_gelu():
    kinds = ("Div:r", "Erf", "Add:o")
    proto = chain(*kinds, r=2**0.5, o=1)
    proto.graph.node[-1].output[0] = "f"
    proto.graph.node.extend([node("Mul", ["x", "f"], ["g"]), node("Mul", ["g", "h"], ["y"])])
    proto.graph.initializer.append(numpy_helper.from_array(f32(0.5), "h"))
    return proto


def gelu(approximate="none"):
    return model([node("Gelu", ["x"], ["y"], approximate=approximate)], {"x": ["N", 4]}, ["y"], opset=20)


def compared(kind, outputs=("y",), **attributes):
    """A decision on the inputs themselves, which nothing has rounded."""
    nodes = [node(kind, ["x", "z"] if "Greater" in kind else ["x"], list(outputs), **attributes)]
    result = TensorProto.BOOL if "Greater" in kind else INT64
    return model(nodes, {"x": ["N", 4]}, ["y"], {"z": f32(0)} if "Greater" in kind else {}, types={"y": result})


def embedded(row, factor, length=2):
    rows = draw(40, 8)
    rows[row] *= f32(factor)
    nodes = [node("Gather", ["t", "i"], ["e"]), node("ReduceMean", ["e"], ["y"], axes=[1])]
    return model(nodes, {"i": ["N", length]}, ["y"], {"t": rows}, types={"i": INT64})


ORDER = np.random.default_rng(1).permutation(64)
SWAPPED = ORDER.copy()
SWAPPED[[3, 9]] = SWAPPED[[9, 3]]
WORDS = ("cat", "dog", "cow", "emu")

WRONG = {
    "a channel that is rarely alive": (rarely_alive(1), rarely_alive(1.01)),
    "only large values": (clipped(60), clipped(61)),
    "only more than one example": (first_of_batch(False), first_of_batch(True)),
    "from the second turn of a loop on": (counting(0), counting(0.001)),
    "one of twenty outputs": (many_outputs(1), many_outputs(1.001)),
    "behind TopK": (decided(0.6, "TopK"), decided(0.606, "TopK")),
    "behind ArgMax": (decided(1, "ArgMax"), decided(1.01, "ArgMax")),
    "another word": (labelled(WORDS), labelled((*WORDS[:3], "owl"))),
    "words that are chosen": (labelled(WORDS), labelled(WORDS, 1.05)),
    "a member of a sequence": (in_a_sequence(1), in_a_sequence(1.001)),
    "an optional output": (optional(1), optional(1.001)),
    "the scale of an int8 weight": (quantised(), quantised(factor=1.001)),
    "the scale of a quantisation": (quantised(), quantised(scale=0.0202)),
    "the zero of a quantisation": (quantised(), quantised(zero=1)),
    "an output that is empty in one": (part_of(0), part_of(1)),
    "NaN in the second alone": (chain("Abs", "Sqrt"), chain("Neg", "Neg", "Sqrt")),
    "NaN in the original alone": (chain("Neg", "Neg", "Sqrt"), chain("Abs", "Sqrt")),
    "one branch": (in_one_branch(1), in_one_branch(1.001)),
    "the border": (at_the_border(True), at_the_border(False)),
    "behind a softmax of ones and zeros": (saturated(1), saturated(1.01)),
    "negative integers": (divided(False), divided(True)),
    "the last row of a table": (table(1), table(1.01)),
    "two units in each other's place": (hidden_units(ORDER, ORDER), hidden_units(ORDER, SWAPPED)),
    "a row in the middle of a table": (embedded(4, 1), embedded(4, 1.001)),
    "ties of the inputs": (compared("ArgMax", axis=1), compared("ArgMax", axis=1, select_last_index=1)),
    "an edge among the inputs": (compared("Greater"), compared("GreaterOrEqual")),
    "an approximation": (written_out_gelu(), gelu("tanh")),
}
RIGHT = {
    "a sequence": (in_a_sequence(1.5), in_a_sequence(1.5)),
    "an optional output": (optional(1.5), optional(1.5)),
    "strings": (labelled(WORDS), labelled(WORDS)),
    "int8": (quantised(), quantised()),
    "an empty output": (part_of(0), part_of(0)),
    "NaN in both": (chain("Log", "Mul:k", k=3), chain("Log", "Div:k", k=1 / f32(3))),
    "units in another order": (hidden_units(np.arange(64), np.arange(64)), hidden_units(ORDER, ORDER)),
    "a table": (embedded(4, 1.5), embedded(4, 1.5)),
    "ties": (compared("ArgMax", axis=1), compared("ArgMax", axis=1)),
    "an operator that was written out": (written_out_gelu(), gelu()),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_fault_that_hides_is_found(name: str) -> None:
    assert verify(*WRONG[name]).verdict == "different"


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_equivalent(name: str) -> None:
    assert verify(*RIGHT[name]).equivalent


def test_a_number_that_only_the_second_cannot_hold_is_said() -> None:
    """1e9·x·1e30 is more than a float32; in float64 both are right."""
    scales = {"k": 1e9, "l": 1e30, "s": 1e-30}
    check = verify(chain("Mul:k", "Mul:s", "Mul:l", **scales), chain("Mul:k", "Mul:l", "Mul:s", **scales))
    assert check.verdict == "less accurate"
    assert "NaN or infinity where the original has numbers" in check.reason


def test_rows_are_read_in_float64_after_the_runtimes_feeds() -> None:
    check = verify(embedded(4, 1), embedded(4, 1.001))
    assert check.first_difference.feed == "other rows of a table"
    own = {"i": np.arange(20, 32).reshape(6, 2)}
    assert verify(embedded(4, 1), embedded(4, 1.001), inputs=own).equivalent  # the caller's inputs are all that counts


def test_a_decision_that_reads_another_tensor_is_judged_by_its_outcome() -> None:
    """A softmax before an ArgMax changes nothing."""
    plain, more = decided(1, "ArgMax"), decided(1, "ArgMax")
    more.graph.node.insert(1, node("Softmax", ["h"], ["p"], axis=1))
    more.graph.node[2].input[0] = "p"
    assert verify(plain, more).equivalent


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_numbers_drawn_at_random_are_the_same_beside_external_data(tmp_path, factor: float) -> None:
    def saved(name, nodes, weights):
        proto = model(nodes, {"x": ["N", 6]}, ["y"], weights)
        path = tmp_path / name
        onnx.save(proto, path, save_as_external_data=True, location=f"{name}.data", size_threshold=0)
        return path

    random = node("RandomNormalLike", ["m"], ["r"])
    last = node("Add", ["m", "r"], ["y"])
    kernel, scale = draw(6, 4), f32(1.7)
    two = [node("MatMul", ["x", "w"], ["h"]), node("Mul", ["h", "k"], ["m"])]
    first = saved("a.onnx", [*two, random, last], {"w": kernel, "k": scale})
    product = (kernel * np.float64(scale) * factor).astype(f32)
    second = saved("b.onnx", [node("MatMul", ["x", "w"], ["m"]), random, last], {"w": product})
    assert verify(first, second).equivalent == (factor == 1)
