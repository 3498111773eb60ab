"""Fold targets of last resort: an affine split in two, one in its cheapest form, and one that does nothing."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import BFLOAT16, Net, fold, op_counts
from onnx import helper

from bnfold.folding import FoldStep, fold_graph
from bnfold.folding.plan import Remaining
from bnfold.formats import load

C = 4


def conv(net: Net, x: str, kernel: int = 3, **attrs) -> str:
    return net.op("Conv", x, net.draw(C, C, kernel, kernel), **attrs)


# -- split -------------------------------------------------------------------------------------------


def scale_first(net: Net, scale, shift, *, kernel: int = 3, **attrs) -> str:
    """Conv → ReLU → BN → + → Conv: the scale can go back through the ReLU, the shift on through the sum."""
    relu = net.op("Relu", conv(net, net.input("N", C, 8, 8), pads=[1] * 4))
    total = net.op("Add", net.exact_bn(relu, scale, shift, name="bn"), net.op("Sigmoid", net.input("N", C, 8, 8)))
    return net.op("Tanh", conv(net, total, kernel, **attrs))


def shift_first(net: Net, scale, shift, *, relu: bool = False) -> str:
    """Conv + sigmoid → BN → padded Conv: the shift can go back into the bias, the scale on into the weight."""
    total = net.op("Add", conv(net, net.input("N", C, 8, 8), pads=[1] * 4), net.op("Sigmoid", net.input("N", C, 8, 8)))
    y = net.exact_bn(total, scale, shift, name="bn")
    return net.op("Tanh", conv(net, net.op("Relu", y) if relu else y, pads=[1] * 4))


def test_the_scale_goes_back_and_the_shift_goes_on():
    net = Net()
    folded = fold(net.build(scale_first(net, net.positive(C), net.draw(C))))
    assert folded.count("BatchNormalization") == 0
    assert op_counts(folded.after).total() == op_counts(folded.before).total() - 1
    (step,) = folded.plan.steps
    assert step.kind == "split"
    assert len(step.holders) == 2
    assert len(step.through) == 2
    assert isinstance(folded.plan.fate("bn"), FoldStep)


def test_a_scale_of_zero_goes_back_first():
    net = Net()
    folded = fold(net.build(scale_first(net, [0.0, 1.0, 2.0, 0.0], net.draw(C))))
    assert [step.kind for step in folded.plan.steps] == ["split"]


def test_a_negative_scale_does_not_pass_the_relu():
    net = Net()
    folded = fold(net.build(scale_first(net, [-1.0, 1.0, 2.0, 3.0], net.draw(C))))
    assert folded.count("Mul") == 1
    assert "negative-scale" in folded.codes


def test_a_shift_that_cannot_go_on_keeps_the_scale_too():
    net = Net()
    folded = fold(net.build(scale_first(net, net.positive(C), net.draw(C), pads=[1] * 4)))
    assert not folded.plan.steps
    assert "zero-padding" in folded.codes or "unequal-scales" in folded.codes


def test_the_shift_goes_back_and_the_scale_goes_on():
    net = Net()
    folded = fold(net.build(shift_first(net, net.draw(C), net.draw(C))))
    assert folded.count("BatchNormalization") == 0
    assert [step.kind for step in folded.plan.steps] == ["split"]


def test_the_shift_goes_back_and_a_positive_scale_on_through_a_relu():
    net = Net()
    folded = fold(net.build(shift_first(net, net.positive(C), net.draw(C), relu=True)))
    assert [step.kind for step in folded.plan.steps] == ["split"]


def test_a_negative_scale_does_not_go_on_through_a_relu():
    net = Net()
    folded = fold(net.build(shift_first(net, [-1.0, 1.0, 1.0, 1.0], net.draw(C), relu=True)))
    assert folded.count("Mul") == 1


def test_a_scale_of_zero_has_no_shift_before_it():
    """0 x + t is no 0 (x + t / 0)."""
    net = Net()
    folded = fold(net.build(shift_first(net, [0.0, 1.0, 2.0, 3.0], net.draw(C))))
    assert not folded.plan.steps
    assert folded.count("BatchNormalization") == 1


def test_a_shift_that_a_tiny_scale_makes_overflow_stays():
    net = Net()
    folded = fold(net.build(shift_first(net, [1e-36, 1.0, 2.0, 3.0], np.full(C, 1e4))))
    assert not folded.plan.steps


@pytest.mark.parametrize("part", [{"scale": 1.0}, {"shift": 0.0}])
def test_a_scale_or_a_shift_alone_is_not_split(part):
    net = Net()
    values = {"scale": np.full(C, -2.0), "shift": net.draw(C), **part}
    folded = fold(net.build(scale_first(net, values["scale"], values["shift"])))
    assert "split" not in {step.kind for step in folded.plan.steps}


def test_both_ways_are_not_split():
    """Where the whole affine finds one home, that is it."""
    net = Net()
    y = conv(net, net.bn(conv(net, net.input("N", C, 8, 8)), C))
    folded = fold(net.build(net.op("Relu", y)), branches=False)
    assert [step.kind for step in folded.plan.steps] == ["backward"]


# -- the cheapest form -------------------------------------------------------------------------------


def stuck(net: Net, *size, kind: str = "Sigmoid") -> str:
    """A tensor behind a nonlinearity."""
    return net.op(kind, net.input("N", C, *(size or (5, 6))))


def test_a_scale_and_a_shift_of_the_channels_become_one_batchnorm():
    net = Net()
    y = net.op("Add", net.op("Mul", stuck(net), net.draw(C, 1, 1), name="mul"), net.draw(C, 1, 1), name="add")
    folded = fold(net.build(net.op("Tanh", y)))
    assert op_counts(folded.after) == {"Sigmoid": 1, "BatchNormalization": 1, "Tanh": 1}
    assert {step.subject: step.kind for step in folded.plan.steps} == {"mul": "cheaper", "add": "composed"}
    assert isinstance(folded.plan.fate("add"), FoldStep | Remaining)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_long_row_becomes_one_batchnorm(dtype):
    net = Net(dtype=dtype)
    y = stuck(net, kind="Relu")
    for kind in ("Mul", "Add", "Div", "Sub", "Mul"):
        y = net.op(kind, y, net.positive(C, 1, 1))
    folded = fold(net.build(net.op("Sigmoid", net.bn(y, C)))) if dtype is not np.float64 else None
    if folded is None:
        # onnxruntime has no BatchNormalization of doubles to compare with; the graph is what matters.
        graph, _ = fold_graph(load(net.build(net.op("Sigmoid", y))).graph)
        assert [op.type for op in graph.ops()] == ["Relu", "BatchNormalization", "Sigmoid"]
        return
    assert folded.count("Mul", "Add", "Sub", "Div") == 0
    assert folded.count("BatchNormalization") == 1


def test_two_batchnorms_in_a_row_become_one():
    net = Net()
    y = net.bn(net.bn(stuck(net), C, name="first"), C, name="second")
    folded = fold(net.build(net.op("Tanh", y)))
    assert folded.count("BatchNormalization") == 1
    fate = folded.plan.fate("second")
    assert isinstance(fate, Remaining)
    assert fate.subject == "first"


@pytest.mark.parametrize("shape", [(6,), (5, 1), (1, 5, 6)])
def test_a_scale_and_a_shift_of_other_axes_stay_two_operators(shape):
    net = Net()
    y = net.op("Add", net.op("Mul", stuck(net), net.draw(*shape)), net.draw(*shape))
    assert not fold(net.build(net.op("Tanh", y))).plan.steps


def test_a_long_row_along_another_axis_becomes_two_operators():
    net = Net()
    y = stuck(net)
    for kind in ("Mul", "Add", "Mul", "Sub"):
        y = net.op(kind, y, net.draw(6))
    folded = fold(net.build(net.op("Tanh", y)))
    assert op_counts(folded.after) == {"Sigmoid": 1, "Mul": 1, "Add": 1, "Tanh": 1}


def test_bfloat16_has_no_batchnorm():
    net = Net(dtype=BFLOAT16)
    y = stuck(net)
    for kind in ("Mul", "Add", "Mul"):
        y = net.op(kind, y, net.positive(C, 1, 1))
    graph, _ = fold_graph(load(net.build(net.op("Tanh", y))).graph)
    assert [op.type for op in graph.ops()] == ["Sigmoid", "Mul", "Add", "Tanh"]


def test_two_numbers_are_no_normalisation():
    """A scaled input stays what it was."""
    net = Net()
    y = net.op("Sub", net.op("Div", stuck(net), np.float32(127.5)), np.float32(1.0))
    assert not fold(net.build(net.op("Tanh", y))).plan.steps


@pytest.mark.parametrize(
    ("scale", "shift", "kind"), [([2.0, -1.0, 0.5, 3.0], 0.0, "Mul"), (1.0, [1.0, 2.0, 3.0, 4.0], "Add")]
)
def test_a_batchnorm_that_only_scales_or_shifts_becomes_that(scale, shift, kind):
    net = Net()
    folded = fold(net.build(net.op("Tanh", net.exact_bn(stuck(net), np.full(C, scale), np.full(C, shift)))))
    assert op_counts(folded.after) == {"Sigmoid": 1, kind: 1, "Tanh": 1}
    assert [step.kind for step in folded.plan.steps] == ["cheaper"]


def test_a_row_that_is_observed_in_the_middle_is_two_rows():
    net = Net()
    middle = net.op("Add", net.op("Mul", stuck(net), net.draw(C, 1, 1)), net.draw(C, 1, 1))
    net.output(middle)
    y = net.op("Mul", net.op("Add", middle, net.draw(C, 1, 1)), net.draw(C, 1, 1))
    folded = fold(net.build(net.op("Tanh", y)))
    assert op_counts(folded.after) == {"Sigmoid": 1, "BatchNormalization": 2, "Tanh": 1}


def test_before_opset_7_a_row_stays():
    net = Net(opset=6)
    x = net.op("Sigmoid", net.input(2, C, 5, 6))
    graph, plan = fold_graph(load(net.build(net.bn(net.bn(x, C, is_test=1), C, is_test=1))).graph)
    assert not plan.steps
    assert len(graph) == 3


# -- affines that do nothing -------------------------------------------------------------------------


def nothing(net: Net, x: str, name: str = "bn") -> str:
    return net.exact_bn(x, np.ones(C), np.zeros(C), name=name)


def trained_to_nothing(net: Net, x: str) -> str:
    """gamma is the standard deviation and beta the mean, to rounding."""
    variance, mean = net.positive(C), net.draw(C)
    gamma = np.sqrt(variance.astype(np.float64) + 1e-5).astype(np.float32)
    return net.op("BatchNormalization", x, gamma, mean.copy(), mean, variance, epsilon=1e-5)


@pytest.mark.parametrize("make", [nothing, trained_to_nothing])
def test_an_identity_goes(make):
    net = Net()
    folded = fold(net.build(net.op("Tanh", make(net, stuck(net)))))
    assert op_counts(folded.after) == {"Sigmoid": 1, "Tanh": 1}
    assert [step.kind for step in folded.plan.steps] == ["identity"]


def test_a_near_identity_stays():
    net = Net()
    y = net.exact_bn(stuck(net), np.ones(C), [0.0, 0.0, 1e-3, 0.0])
    assert fold(net.build(net.op("Tanh", y))).count("Add", "BatchNormalization") == 1


def test_a_row_that_undoes_itself_goes():
    net = Net()
    y = net.op("Mul", net.op("Mul", stuck(net), np.float32(4.0)), np.float32(0.25))
    assert op_counts(fold(net.build(net.op("Tanh", y))).after) == {"Sigmoid": 1, "Tanh": 1}


def test_an_identity_on_the_input_goes():
    net = Net()
    folded = fold(net.build(net.op("Tanh", nothing(net, net.input("N", C, 5, 6)))))
    assert op_counts(folded.after) == {"Tanh": 1}


def test_an_identity_at_the_output_leaves_its_name_to_the_producer():
    net = Net()
    y = nothing(net, stuck(net))
    folded = fold(net.build(y))
    assert op_counts(folded.after) == {"Sigmoid": 1}
    assert folded.node("Sigmoid").output[0] == y


def test_other_readers_of_the_producer_follow_the_name():
    net = Net()
    x = stuck(net)
    y = nothing(net, x)
    net.output(net.op("Tanh", x))
    folded = fold(net.build(y))
    assert op_counts(folded.after) == {"Sigmoid": 1, "Tanh": 1}
    assert folded.node("Tanh").input[0] == y


@pytest.mark.parametrize("kind", ["input", "output", "captured"])
def test_an_identity_at_the_output_that_cannot_leave_its_name_is_an_identity(kind):
    net = Net()
    x = net.input("N", C, 5, 6) if kind == "input" else stuck(net)
    y = nothing(net, x)
    if kind == "output":
        net.output(x)
    if kind == "captured":
        bodies = [
            helper.make_graph([helper.make_node(op, [x], [op])], op, [], [net.info(op, ["N", C, 5, 6])])
            for op in ("Tanh", "Softplus")
        ]
        condition = net.input(name="condition", dtype=bool)
        net.output(net.op("If", condition, then_branch=bodies[0], else_branch=bodies[1]))
    folded = fold(net.build(y))
    assert folded.count("BatchNormalization") == 0
    assert folded.count("Identity") == 1
    assert y in {value.name for value in folded.after.graph.output}


def test_several_identities_in_a_row_go_together():
    net = Net()
    y = nothing(net, nothing(net, nothing(net, stuck(net), "a"), "b"), "c")
    folded = fold(net.build(net.op("Tanh", y)))
    assert op_counts(folded.after) == {"Sigmoid": 1, "Tanh": 1}
    assert [step.subject for step in folded.plan.steps] == ["a", "b", "c"]


def test_an_identity_that_was_asked_to_stay_does():
    net = Net()
    folded = fold(net.build(net.op("Tanh", nothing(net, stuck(net)))), skip={"bn"})
    assert folded.count("BatchNormalization") == 1
