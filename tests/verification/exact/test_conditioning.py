"""0/0 and its kin: what hangs on the last digit is no difference, and what does not is one."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper
from verification_models import model, verify

from bnfold.verification.exact.conditioning import undefined

node = helper.make_node
f32 = np.float32
SCALE = np.array([1.7, 0.31, 2.3, 0.9], f32)
SHIFT = np.array([0.37, -1.1, 0.2, 3.3], f32)


def behind(kinds, scale=SCALE, shift=SHIFT, factor=1.0, fused=True, names=("a", "b")):
    """Operators behind four channels, of which the second is one number; scaled and shifted in one step or in three."""
    live = np.array([1.0, 0.0, 1.0, 1.0], f32)
    scale, shift = (item.astype("f8") for item in (scale, shift))
    if fused:
        weights = {"w": scale * live * factor, "v": shift * factor}
        nodes = [node("Mul", ["x", "w"], [names[0]]), node("Add", [names[0], "v"], [names[1]])]
    else:
        weights = {"l": live, "s": scale, "v": shift / scale}
        nodes = [
            node("Mul", ["x", "l"], ["p"]),
            node("Add", ["p", "v"], ["q"]),
            node("Mul", ["q", "s"], [names[1]]),
        ]
    weights = {name: value.astype(f32).reshape(4, 1, 1) for name, value in weights.items()}
    read = names[1]
    for index, (kind, inputs, attributes) in enumerate(kinds):
        name = "y" if index == len(kinds) - 1 else f"{names[0]}{index}"
        nodes.append(node(kind, [read, *inputs], [name], **attributes))
        read = name
    weights |= {"one": np.ones(4, f32), "zero": np.zeros(4, f32), "axes": np.array([2, 3]), "two": np.ones(2, f32)}
    if any("map" in inputs for _, inputs, _ in kinds):
        weights["map"] = np.ones((7, 7), f32)
    used = {name for item in nodes for name in item.input}
    weights = {name: value for name, value in weights.items() if name in used}
    return model(nodes, {"x": ["N", 4, 7, 7]}, ["y"], weights, opset=21)


NORMALISED = {
    "MeanVarianceNormalization": [("MeanVarianceNormalization", [], {"axes": [0, 2, 3]})],
    "InstanceNormalization": [("InstanceNormalization", ["one", "zero"], {"epsilon": 0.0})],
    "LayerNormalization": [("LayerNormalization", ["map"], {"epsilon": 0.0, "axis": 2})],
    "GroupNormalization": [("GroupNormalization", ["one", "zero"], {"epsilon": 0.0, "num_groups": 4})],
}


@pytest.mark.parametrize("name", NORMALISED)
@pytest.mark.parametrize("constant", [-1.1, -1.374, -2.07])
def test_a_constant_channel_that_is_normalised_is_no_difference(name, constant):
    """The runtime computes a root of a negative number in one of the two where the constant is −1.374."""
    kinds, shift = NORMALISED[name], SHIFT.copy()
    shift[1] = constant
    check = verify(behind(kinds, shift=shift, fused=False), behind(kinds, shift=shift, names=("c", "d")))
    assert check.equivalent, check.sentence()


@pytest.mark.parametrize("name", NORMALISED)
def test_a_fault_beside_a_constant_channel_is_one(name):
    kinds = [*NORMALISED[name], ("Mul", ["k"], {})]

    def scaled(factor, fused, names):
        proto = behind(kinds, fused=fused, names=names)
        values = np.ones((4, 1, 1), f32)
        values[2] = factor
        proto.graph.initializer.append(numpy_helper.from_array(values, "k"))
        return proto

    assert verify(scaled(1, False, ("a", "b")), scaled(1, True, ("c", "d"))).equivalent
    assert verify(scaled(1, False, ("a", "b")), scaled(1.001, True, ("c", "d"))).verdict == "different"


def vanishing(order, operator):
    """(a + b) − a − b, which is 0 but for rounding, and what cannot be computed from it."""
    first, second = order
    nodes = [
        node("Exp", ["x"], ["a"]),
        node("Exp", ["z"], ["b"]),
        node("Add", ["a", "b"], ["s"]),
        node("Sub", ["s", first], [f"without_{first}"]),
        node("Sub", [f"without_{first}", second], ["none"]),
        *operator,
    ]
    weights = {"axes": np.array([1])} if "axes" in operator[0].input else {}
    return model(nodes, {"x": ["N", 4], "z": ["N", 4]}, ["y"], weights, opset=18)


@pytest.mark.parametrize(
    "operator",
    [
        [node("Log", ["none"], ["y"])],
        [node("Sqrt", ["none"], ["y"])],
        [node("Reciprocal", ["none"], ["y"])],
        [
            node("Cos", ["x"], ["c"]),
            node("Add", ["c", "b"], ["t"]),
            node("Sub", ["t", "c"], ["u"]),
            node("Sub", ["u", "b"], ["more"]),
            node("Div", ["none", "more"], ["y"]),
        ],
        [node("ReduceLogSum", ["none", "axes"], ["y"])],
        [node("LpNormalization", ["none"], ["y"], axis=1)],
    ],
    ids=lambda nodes: nodes[-1].op_type,
)
def test_what_is_computed_of_nothing_is_no_difference(operator):
    a, b = (vanishing(order, operator) for order in ("ab", "ba"))
    check = verify(a, b)
    assert check.equivalent, check.sentence()
    assert any("hang on the last digit: they were not compared" in note for note in check.notes)
    # A factor that does not hang on it is seen as well as ever.
    for proto, factor in ((a, 1.0), (b, 1.001)):
        proto.graph.node.append(node("Mul", ["a", "k"], ["z2"]))
        proto.graph.initializer.append(numpy_helper.from_array(f32(factor), "k"))
        proto.graph.output.append(helper.make_tensor_value_info("z2", 1, None))
    assert verify(a, b).verdict == "different"


def test_nan_where_nothing_hangs_on_the_last_digit_is_a_difference():
    def root(shift):
        nodes = [node("Abs", ["x"], ["a"]), node("Add", ["a", "s"], ["b"]), node("Sqrt", ["b"], ["y"])]
        return model(nodes, {"x": ["N", 4]}, ["y"], {"s": f32(shift)})

    check = verify(root(1.0), root(-1.0))
    assert check.verdict == "different"
    assert "NaN or infinity stand in other places" in check.reason


def test_rows_of_minus_infinity():
    """Masked attention: a row without a place to look at is NaN in both."""

    def masked(scale_first):
        weights = {"k": f32(0.3), "m": np.where(np.arange(6) == 2, -np.inf, 0.0).astype(f32).reshape(6, 1)}
        steps = [("Mul", "k"), ("Add", "m")] if scale_first else [("Add", "m"), ("Mul", "k")]
        nodes = [node(steps[0][0], ["x", steps[0][1]], ["h"]), node(steps[1][0], ["h", steps[1][1]], ["g"])]
        return model([*nodes, node("Softmax", ["g"], ["y"])], {"x": [6, 5]}, ["y"], weights)

    assert verify(masked(True), masked(False)).equivalent


def test_what_moves_freely_is_undefined_and_a_small_value_is_not():
    values = np.array([[1.0, 2.0, 1e-9], [1e-12, 1.0, 3.0]])

    def evaluate(hook):
        if hook is None:
            return {"y": values, "n": np.array([1, 2])}
        moved = hook.constant("y", values)
        moved[1, 0] = np.random.default_rng(int(abs(moved[0, 0]) * 1e12) % 1000).standard_normal()
        return {"y": moved, "n": np.array([1, 3])}

    found = undefined(evaluate, 2.0**-24)
    assert found["y"].tolist() == [[False] * 3, [True, False, False]]
    assert "n" not in found
