"""Mul, Add, Sub, Div and their like: affines with a constant, joins of tensors without."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from helpers import Folded, Net, assert_gone, assert_stays, fold, fold_unrun

from bnfold.affine import Affine
from bnfold.formats import load
from bnfold.operators import Node, Role, as_affine, facts_of, role
from bnfold.refusal import Refusal

C = 4


def conv(net: Net, channels: int = C, **attrs) -> str:
    return net.op("Conv", net.input("N", 3, 6, 6), net.draw(channels, 3, 3, 3), **attrs)


def assert_stuck(folded: Folded, code: str, word: str) -> None:
    """Like ``assert_stays``, but a BatchNormalization may have become something simpler in its place."""
    assert {step.kind for step in folded.plan.steps} <= {"cheaper"}
    assert code in folded.codes, folded.sentences
    assert word in folded.sentences


def answer(net: Net, *outputs: str) -> Affine | Refusal:
    """What the last operator is by itself."""
    graph = load(net.build(*outputs)).graph
    return as_affine(graph, graph.ops()[-1])


# -- with a constant ---------------------------------------------------------------------------------


@pytest.mark.parametrize("constant_first", [False, True])
@pytest.mark.parametrize("kind", ["Mul", "Add", "Sub"])
def test_both_operand_orders_fold(kind, constant_first):
    net = Net()
    operands = [conv(net), net.draw(C, 1, 1)]
    folded = fold(net.build(net.op(kind, *(reversed(operands) if constant_first else operands))))
    assert folded.count() == 1


def test_division_by_a_constant_folds():
    net = Net()
    assert fold(net.build(net.op("Div", conv(net), net.positive(C, 1, 1)))).count() == 1


def test_division_of_a_constant_is_not_linear():
    net = Net()
    folded = fold(net.build(net.op("Div", net.positive(C, 1, 1), conv(net))))
    assert not folded.plan.steps
    assert folded.count("Div") == 1


def test_division_by_zero_is_no_affine():
    net = Net()
    found = answer(net, net.op("Div", conv(net), np.array([1, 2, 0, 4], np.float32).reshape(C, 1, 1)))
    assert isinstance(found, Refusal)
    assert found.code == "not-finite"


def test_a_constant_without_values_is_no_affine():
    net = Net()
    found = answer(net, net.op("Mul", net.op("Relu", net.input("N", 0)), np.zeros(0, np.float32)))
    assert isinstance(found, Refusal)
    assert found.code == "integer"


def test_of_two_constants_the_second_is_the_parameter():
    net = Net()
    found = answer(net, net.op("Div", net.positive(C), np.float32(4)))
    assert isinstance(found, Affine)
    assert found.scale.tolist() == [0.25]


def test_the_first_operand_of_a_join_is_its_data():
    net = Net()
    x = net.input("N", C)
    graph = load(net.build(net.op("Add", net.op("Exp", x), net.op("Relu", x), name="join"))).graph
    node = Node(graph, graph.op("join"))
    assert facts_of(node.op).data_slot(node) == 0


def test_negation_folds():
    net = Net()
    assert fold(net.build(net.op("Relu", net.op("Neg", conv(net))))).count() == 2


def test_negation_of_integers_is_left_alone():
    net = Net()
    x = net.op("Neg", net.input("N", C, dtype=np.int64))
    folded = fold(net.build(net.op("Cast", x, to=1)))
    assert not folded.plan.steps


@pytest.mark.parametrize("kind", ["integer", "unknown"])
def test_negation_of_anything_but_floating_point_is_no_affine(kind):
    net = Net()
    net.domains = {"custom": 1}
    x = net.input("N", C, dtype=np.int64)
    x = net.op("Own", x, domain="custom") if kind == "unknown" else x
    net.output(net.op("Cast", net.op("Neg", x, name="minus"), to=1), shape=["N", C])
    graph = load(net.build()).graph
    found = as_affine(graph, graph.op("minus"))
    assert isinstance(found, Refusal)
    assert found.code == "integer"


def test_integer_arithmetic_is_left_alone():
    net = Net()
    x = net.op("Add", net.op("Mul", net.input("N", C, dtype=np.int64), np.array(3)), np.array(1))
    folded = fold(net.build(net.op("Cast", x, to=1)))
    assert not folded.plan.steps
    assert not folded.plan.remaining


#: Shapes of constants on [N, C, 6, 6], and the axis along which they vary.
SHAPES = {
    (): None,
    (1,): None,
    (1, 1, 1, 1): None,
    (C, 1, 1): 1,
    (1, C, 1, 1): 1,
    (6,): 3,
    (6, 1): 2,
    (1, 1, 6, 1): 2,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_axis_of_a_constant_comes_from_broadcasting_from_the_right(shape):
    net = Net()
    found = answer(net, net.op("Mul", conv(net, pads=[1] * 4), net.draw(*shape)))
    assert isinstance(found, Affine)
    assert found.axis == SHAPES[shape]


def test_a_constant_that_varies_along_two_axes_is_no_vector():
    net = Net()
    y = net.op("Mul", conv(net, pads=[1] * 4), net.draw(6, 6))
    folded = fold(net.build(net.op("Tanh", y)))
    assert folded.count("Mul") == 1


def test_a_constant_that_is_the_same_everywhere_is_uniform():
    net = Net()
    y = net.op("Mul", conv(net, pads=[1] * 4), np.full((6,), 1.5, np.float32))
    assert fold(net.build(y)).count() == 1


@pytest.mark.parametrize("width", [C, 6])
def test_a_vector_on_the_last_axis_stays_even_if_it_is_as_long_as_the_channels(width):
    net = Net()
    y = net.op("Conv", net.input("N", 3, 6, width), net.draw(C, 3, 1, 1))
    assert_stays(fold(net.build(net.op("Mul", y, net.draw(width)))), "other-axis", "axis 3")


def test_a_constant_that_enlarges_its_input_is_no_affine():
    net = Net()
    found = answer(net, net.op("Add", net.op("Relu", net.input("N", 1, 6)), net.draw(C, 1)))
    assert isinstance(found, Refusal)
    assert found.code == "broadcast"


def test_a_constant_of_higher_rank_is_no_affine():
    net = Net()
    found = answer(net, net.op("Add", net.op("Relu", net.input("N", C)), net.draw(2, 1, C)))
    assert isinstance(found, Refusal)
    assert found.code == "broadcast"


def test_a_constant_along_an_axis_of_unknown_size_is_no_affine():
    net = Net()
    x = net.op("Relu", net.input("N", C, "W"))
    found = answer(net, net.op("Add", x, net.draw(2)))
    assert isinstance(found, Refusal)
    assert found.code == "unknown-shape"


def test_a_vector_on_a_tensor_of_unknown_rank_is_no_affine():
    net = Net()
    x = net.unknown_rank(net.input("N", C), (2, -1))
    y = net.op("Add", x, net.draw(C))
    model = net.build(net.op("Reshape", y, np.array([-1])))
    graph = load(model).graph
    found = as_affine(graph, graph.ops()[1])
    assert isinstance(found, Refusal)
    assert found.code == "unknown-rank"


def test_the_roles_of_arithmetic_show_in_the_graph():
    net = Net()
    x = net.op("Relu", net.input("N", C))
    net.op("Add", x, net.draw(C), name="shift")
    net.op("Add", x, net.op("Tanh", x), name="join")
    graph = load(net.build(x)).graph
    assert role(graph.op("shift"), graph) is Role.AFFINE
    assert role(graph.op("join"), graph) is Role.JOIN


@pytest.mark.parametrize("opset", [6, 7])
def test_the_broadcast_attribute_of_old_opsets_is_not_guessed_at(opset):
    net = Net(opset=opset)
    x = net.op("Relu", net.input("N", C, 6, 6))
    attrs = {"broadcast": 1, "axis": 1} if opset < 7 else {}
    y = net.op("Mul", x, net.draw(C) if opset < 7 else net.draw(C, 1, 1), name="scale", **attrs)
    net.output(y, shape=["N", C, 6, 6])
    graph = load(net.build()).graph
    found = as_affine(graph, graph.op("scale"))
    if opset < 7:
        assert isinstance(found, Refusal)
        assert found.code == "old-opset"
    else:
        assert isinstance(found, Affine)


@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("behind", [True, False])
def test_nothing_passes_a_join_that_broadcasts_by_old_rules(kind, behind):
    net = Net(opset=6)
    parameters = [net.positive(C), *[np.zeros(C, np.float32)] * 2, net.positive(C)]
    if behind:
        y = net.op(kind, conv(net), conv(net), name="join", broadcast=1)
        y = net.op("BatchNormalization", y, *parameters, is_test=1)
    else:
        x = net.op("BatchNormalization", net.op("Tanh", net.input("N", C, 4, 4)), *parameters, is_test=1)
        y = net.op(kind, x, x, name="join", broadcast=1)
        y = net.op("Conv", y, net.draw(2, C, 1, 1))
    model = net.build(net.op("Tanh", y))
    assert_stays(fold_unrun(model), "old-opset", f"join ({kind})")


@pytest.mark.parametrize(("kind", "sign"), [("Add", 1.0), ("Sub", -1.0)])
def test_the_terms_of_a_sum_and_none_by_old_rules(kind, sign):
    for attrs, expected in (({}, {0: 1.0, 1: sign}), ({"broadcast": 0}, {0: 1.0, 1: sign}), ({"broadcast": 1}, None)):
        net = Net(opset=6)
        x = net.input("N", C)
        graph = load(net.build(net.op(kind, net.op("Exp", x), net.op("Relu", x), name="join", **attrs))).graph
        node = Node(graph, graph.op("join"))
        assert facts_of(node.op).addends(node) == expected


@pytest.mark.parametrize(
    "detour", ["Constant", "Identity", "Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Sqrt"]
)
def test_a_constant_behind_operators_on_constants_alone_is_one(detour):
    net = Net()
    y = conv(net)
    values = net.positive(C)
    if detour == "Constant":
        scale = net.op("Constant", value_floats=values.tolist())
        scale = net.op("Reshape", scale, np.array([C, 1, 1]))
    elif detour == "Identity":
        scale = net.op("Identity", values.reshape(C, 1, 1))
    elif detour == "Cast":
        scale = net.op("Cast", values.astype(np.float64).reshape(C, 1, 1), to=1)
    elif detour == "Transpose":
        scale = net.op("Transpose", values.reshape(1, 1, C), perm=[2, 0, 1])
    elif detour == "Reshape":
        scale = net.op("Reshape", values, np.array([C, 1, 1]))
    elif detour == "Unsqueeze":
        scale = net.op("Unsqueeze", values, np.array([1, 2]))
    elif detour == "Squeeze":
        scale = net.op("Squeeze", values.reshape(1, C, 1, 1), np.array([0]))
    else:
        scale = net.op(
            "Reshape",
            net.op("Div", np.float32(2), net.op("Sqrt", net.op("Add", values, np.float32(1e-3)))),
            np.array([C, 1, 1]),
        )
    folded = fold(net.build(net.op("Mul", y, scale)))
    assert folded.count() == 1


def test_a_weight_behind_operators_on_constants_folds_too():
    net = Net()
    weight = net.op("Transpose", net.draw(3, C), perm=[1, 0])
    y = net.op("Gemm", net.input("N", 3), net.op("Mul", weight, np.float32(0.5)), transB=1)
    assert fold(net.build(net.bn(y, C))).count() == 1


def test_a_decomposed_batchnorm_is_one_affine():
    net = Net()
    y = net.op("Sub", conv(net), net.draw(C, 1, 1))
    root = net.op("Sqrt", net.op("Add", net.positive(C, 1, 1), np.float32(1e-5)))
    y = net.op("Add", net.op("Mul", net.op("Div", y, root), net.positive(C, 1, 1)), net.draw(C, 1, 1))
    assert fold(net.build(y)).count() == 1


def test_a_chain_that_stays_becomes_one_batchnorm():
    net = Net()
    y = net.op("Tanh", net.input("N", C, 5))
    for kind in ("Mul", "Add", "Div", "Sub"):
        y = net.op(kind, y, net.positive(C, 1))
    folded = fold(net.build(net.op("Tanh", y)))
    assert folded.count() == 3
    assert folded.count("BatchNormalization") == 1


@pytest.mark.parametrize(("kinds", "left"), [(("Mul", "Div"), "Mul"), (("Add", "Sub"), "Add")])
def test_a_chain_that_stays_and_only_scales_or_shifts_is_one_operator(kinds, left):
    net = Net()
    y = net.op("Tanh", net.input("N", C, 5))
    for kind in kinds:
        y = net.op(kind, y, net.positive(5))
    folded = fold(net.build(net.op("Tanh", y)))
    assert folded.count() == 3
    assert folded.count(left) == 1


def test_a_chain_along_another_axis_stays_as_mul_and_add():
    net = Net()
    y = net.op("Tanh", net.input("N", C, 5))
    for kind in ("Mul", "Add", "Mul", "Add"):
        y = net.op(kind, y, net.positive(5))
    folded = fold(net.build(net.op("Tanh", y)))
    assert folded.count("Mul") == folded.count("Add") == 1


def test_affines_along_two_axes_that_a_uniform_one_joins_are_all_looked_at():
    """Each part of the row goes where it can, although the first one is stuck."""
    net = Net()
    y = net.op("Add", net.op("Tanh", net.input("N", C, 5)), net.draw(5))
    y = net.op("Mul", net.op("Mul", y, np.float32(3)), net.positive(C, 1))
    folded = fold(net.build(net.op("MatMul", net.draw(2, C), y)))
    assert folded.count("Mul") == 0
    assert folded.count("Add") == 1


def test_two_batchnorms_in_a_row_become_one():
    net = Net()
    y = net.op("Tanh", net.input("N", C, 5))
    folded = fold(net.build(net.op("Tanh", net.bn(net.bn(y, C), C))))
    assert folded.count("BatchNormalization") == 1
    assert folded.plan.steps[0].kind == "composed"


# -- joins -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Add", "Sub", "Sum"])
def test_an_affine_behind_a_sum_goes_into_every_operand(kind):
    net = Net()
    folded = fold(net.build(net.bn(net.op(kind, conv(net), conv(net)), C)), branches=False)
    assert folded.count() == 3


def test_an_affine_behind_a_sum_of_three_goes_into_every_operand():
    net = Net()
    folded = fold(net.build(net.bn(net.op("Sum", conv(net), conv(net), conv(net)), C)), branches=False)
    assert folded.count() == 4


@pytest.mark.parametrize("kind", ["Add", "Sub"])
@pytest.mark.parametrize("slot", [0, 1])
def test_a_shift_behind_a_sum_needs_one_operand_only(kind, slot):
    net = Net()
    operands = [conv(net), conv(net)]
    operands[slot] = net.op("Relu", operands[slot])
    y = net.op("Sub", net.draw(C, 1, 1), net.op("Neg", net.op(kind, *operands)))
    folded = fold(net.build(y), branches=False)
    assert_gone(folded, "Neg")
    assert folded.count() == 4


def test_a_shift_behind_a_sum_goes_where_it_costs_nothing():
    """Into the convolution's bias, not beside the MatMul that has none."""
    net = Net()
    dense = net.op("MatMul", net.input("N", 3, 6), net.draw(6, C), name="dense")
    other = net.op("Transpose", net.op("Conv", net.input("N", 2, 3), net.draw(C, 2, 1)), perm=[0, 2, 1])
    y = net.op("Add", net.op("Mul", net.op("Add", dense, other), net.draw(C)), net.draw(C))
    folded = fold(net.build(net.op("Relu", y)), branches=False)
    assert folded.count("Mul") == 0
    assert folded.count("Add") == 1


def test_a_scale_behind_a_sum_stays_if_one_operand_cannot():
    net = Net()
    y = net.op("Add", conv(net), net.op("Tanh", conv(net), name="tanh"))
    assert_stays(fold(net.build(net.op("Tanh", net.bn(y, C)))), "nonlinear", "tanh (Tanh)")


def test_a_scale_behind_a_sum_stays_if_an_operand_is_broadcast_along_its_axis():
    net = Net()
    wide, thin = conv(net), net.op("Conv", net.input("N", 3, 6, 6), net.draw(1, 3, 3, 3))
    y = net.op("Add", wide, thin, name="join")
    assert_stays(fold(net.build(net.op("Tanh", net.bn(y, C)))), "broadcast", "join (Add)")


def test_a_uniform_scale_passes_a_broadcast_operand():
    net = Net()
    wide, thin = conv(net), net.op("Conv", net.input("N", 3, 6, 6), net.draw(1, 3, 3, 3))
    y = net.op("Mul", net.op("Add", wide, thin), np.float32(2.5))
    assert fold(net.build(net.op("Tanh", y))).count("Mul") == 0


def test_a_shift_passes_beside_an_operand_of_lower_rank():
    net = Net()
    wide, thin = conv(net), net.op("Relu", net.input(4, 4))
    y = net.op("Add", net.op("Add", wide, thin), net.draw(C, 1, 1))
    assert fold(net.build(net.op("Tanh", y))).count("Add") == 1


def test_one_tensor_in_both_operands_takes_a_scale():
    net = Net()
    y = conv(net)
    folded = fold(net.build(net.op("Relu", net.op("Mul", net.op("Add", y, y), net.draw(C, 1, 1)))), branches=False)
    assert folded.count("Mul") == 0


def test_a_sum_with_a_constant_operand_scales_the_constant():
    net = Net()
    y = net.op("Sum", conv(net), net.draw(C, 4, 4))
    folded = fold(net.build(net.op("Tanh", net.op("Mul", y, net.draw(C, 1, 1)))))
    assert folded.count("Mul") == 0


@pytest.mark.parametrize("kind", ["Add", "Sub", "Sum"])
def test_a_shift_sinks_through_a_sum(kind):
    net = Net()
    x = net.op("Add", net.op("Tanh", net.input("N", C, 6, 6)), net.draw(C, 1, 1))
    y = net.op(kind, x, net.op("Tanh", net.input("N", C, 6, 6)))
    folded = fold(net.build(net.op("Conv", y, net.draw(2, C, 1, 1))))
    assert folded.count() == 4


@pytest.mark.parametrize("kind", ["Add", "Sub", "Sum"])
def test_equal_scales_sink_through_a_sum(kind):
    net = Net()
    x = net.op("Tanh", net.input("N", C, 6, 6))
    x = net.op("Mul", x, net.draw(C, 1, 1))
    y = net.op(kind, net.op("Transpose", x), net.op("Transpose", x))
    folded = fold(net.build(net.op("Conv", net.op("Transpose", y), net.draw(2, C, 1, 1))), branches=False)
    assert folded.count("Mul") == 0


def test_unequal_scales_do_not_sink_through_a_sum():
    net = Net()
    x = net.op("Mul", net.op("Tanh", net.input("N", C, 6, 6)), net.draw(C, 1, 1))
    y = net.op("Add", x, net.op("Tanh", net.input("N", C, 6, 6)), name="join")
    folded = fold(net.build(net.op("Conv", y, net.draw(2, C, 1, 1))))
    assert_stays(folded, "unequal-scales", "join (Add)")


def test_shifts_of_both_operands_meet_behind_a_sum():
    net = Net()
    parts = [net.op("Add", net.op("Tanh", net.input("N", C)), net.draw(C)) for _ in range(2)]
    folded = fold(net.build(net.op("Tanh", net.op("Sub", *parts))))
    assert folded.count("Add") == 1


def test_a_number_on_one_operand_and_the_same_for_each_channel_on_the_other_sink_through_a_sum():
    net = Net()
    one = net.op("Mul", net.op("Tanh", net.input("N", C)), np.float32(2))
    two = net.exact_bn(net.op("Sin", net.input("N", C)), 2 * np.ones(C), net.draw(C))
    for operands in ([one, two], [two, one]):
        trial = copy.deepcopy(net)
        folded = fold(trial.build(trial.op("Gemm", trial.op("Add", *operands), trial.draw(C, 2))))
        assert folded.count() == 4


def test_shifts_along_two_axes_do_not_meet_behind_a_sum():
    net = Net()
    parts = [net.op("Add", net.op("Tanh", net.input("N", C, C)), net.draw(*shape)) for shape in ((C,), (C, 1))]
    assert not fold(net.build(net.op("Tanh", net.op("Add", *parts)))).plan.steps


def test_a_scale_has_one_way_through_a_sum_and_a_shift_one_for_each_operand():
    net = Net()
    graph = load(net.build(net.op("Add", conv(net), conv(net), name="join"))).graph
    node = Node(graph, graph.op("join"))
    vector = net.positive(C)
    for affine, ways in (
        (Affine.of(vector, 0.0, 1), 1),
        (Affine.of(1.0, vector, 1), 2),
        (Affine.of(2.0, vector, 1), 2),
    ):
        lifts = facts_of(node.op).lift(node, {0: affine})
        assert isinstance(lifts, list)
        assert len(lifts) == ways


@pytest.mark.parametrize(("kind", "scale", "shift"), [("Add", 1.0, 0.5), ("Mul", 2.0, 0.0)])
def test_operands_whose_channels_are_not_known_take_no_vector(kind, scale, shift):
    net = Net()
    x = net.input("N", "C", 5)
    graph = load(net.build(net.op(kind, net.op("Tanh", x), net.op("Sin", x), name="join"))).graph
    node = Node(graph, graph.op("join"))
    lifts = facts_of(node.op).lift(node, {0: Affine.of(scale * np.ones(C), shift * np.ones(C), 1)})
    assert isinstance(lifts, Refusal)
    assert lifts.code == "broadcast"


# -- of unknown rank ---------------------------------------------------------------------------------


def of_unknown_rank(net: Net) -> str:
    """A tensor [2, C] of which only the caller knows that."""
    return net.unknown_rank(net.input(2, C), [2, C])


@pytest.mark.parametrize("kind", ["Add", "Sub", "Sum", "Mul", "Div", "Mean", "Max"])
def test_a_uniform_scale_passes_a_join_of_unknown_rank(kind):
    net = Net()
    parts = [net.op("MatMul", of_unknown_rank(net), net.draw(C, C)) for _ in range(2)]
    y = net.op("Mul", net.op(kind, *parts), np.float32(2))
    net.output(net.op("Tanh", y), shape=[None, None])
    folded = fold(net.build(), feeds=net.feeds, branches=False, slack=10)
    assert folded.count() == 6


def with_rank(model, tensor: str, known: bool):
    """The model, and in it the rank of a tensor [2, C] that inference cannot find."""
    if known:
        model.graph.value_info.append(Net().info(tensor, [2, C]))
    return model


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("kind", ["Add", "Mean", "Max"])
def test_a_vector_behind_a_join_of_unknown_rank_stays(kind, declared):
    net = Net()
    parts = [net.op("MatMul", x, net.draw(C, C)) for x in (net.input(2, C), of_unknown_rank(net))]
    join = net.op(kind, *parts, name="join")
    net.output(net.op("Tanh", net.exact_bn(join, net.positive(C), 0.0)), shape=[None, None])
    folded = fold(with_rank(net.build(), join, declared), feeds=net.feeds)
    assert_stuck(folded, "broadcast", f"join ({kind})")


@pytest.mark.parametrize("number_first", [True, False])
def test_a_vector_behind_a_number_and_a_tensor_of_unknown_rank_stays(number_first):
    net = Net()
    operands = [net.op("MatMul", of_unknown_rank(net), net.draw(C, C)), np.float32(0.25)]
    y = net.op("Max", *(reversed(operands) if number_first else operands), name="join")
    net.output(net.op("Tanh", net.exact_bn(y, net.positive(C), 0.0)), shape=[None, None])
    assert_stays(fold(net.build(), feeds=net.feeds), "broadcast", "join (Max)")


@pytest.mark.parametrize(("carrier", "declared"), [("known", False), ("unknown", False), ("unknown", True)])
@pytest.mark.parametrize("kind", ["Add", "Mul", "Max"])
def test_a_vector_before_a_join_of_unknown_rank_stays(kind, carrier, declared):
    net = Net()
    parts = [net.op("Tanh", net.input(2, C)), net.op("Tanh", of_unknown_rank(net))]
    slot = 0 if carrier == "known" else 1
    parts[slot] = net.exact_bn(parts[slot], net.positive(C), 0.0)
    join = net.op(kind, *(parts if slot == 0 else reversed(parts)), name="join")
    net.output(net.op("MatMul", join, net.draw(C, 2)), shape=[None, None])
    folded = fold(with_rank(net.build(), join, declared), feeds=net.feeds)
    assert_stuck(folded, "unknown-rank", f"join ({kind})")


# -- gates -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slot", [0, 1])
def test_a_scale_behind_a_gate_goes_into_one_factor(slot):
    net = Net()
    factors = [net.op("Sigmoid", conv(net)), conv(net)]
    y = net.op("Mul", *(factors if slot else reversed(factors)))
    folded = fold(net.build(net.op("Tanh", net.op("Mul", y, net.draw(C, 1, 1)))))
    assert folded.count("Mul") == 1


def test_a_shift_behind_a_gate_stays():
    net = Net()
    y = net.op("Mul", net.op("Sigmoid", conv(net)), conv(net), name="gate")
    folded = fold(net.build(net.op("Tanh", net.op("Add", y, net.draw(C, 1, 1)))))
    assert_stays(folded, "product", "gate (Mul)")


def test_a_scale_does_not_go_into_a_gate_that_is_broadcast_along_its_axis():
    net = Net()
    thin = net.op("Conv", net.input("N", 3, 6, 6), net.draw(1, 3, 3, 3))
    y = net.op("Mul", net.op("Sigmoid", conv(net)), thin, name="gate")
    folded = fold(net.build(net.op("Tanh", net.op("Mul", y, net.draw(C, 1, 1)))))
    assert folded.count("Mul") == 2


def test_a_squared_tensor_takes_no_scale():
    net = Net()
    y = conv(net)
    folded = fold(net.build(net.op("Tanh", net.op("Mul", net.op("Mul", y, y), net.draw(C, 1, 1)))))
    assert folded.count("Mul") == 2


@pytest.mark.parametrize(("kind", "slot"), [("Mul", 0), ("Mul", 1), ("Div", 0), ("Div", 1)])
def test_a_scale_sinks_through_a_gate(kind, slot):
    net = Net()
    factors = [net.op("Exp", net.input("N", C, 4, 4)), net.op("Exp", net.input("N", C, 4, 4))]
    factors[slot] = net.op("Mul", factors[slot], net.positive(C, 1, 1))
    y = net.op("Conv", net.op(kind, *factors), net.draw(2, C, 3, 3), pads=[1] * 4)
    folded = fold(net.build(y))
    assert folded.count("Mul", "Div") == 1


@pytest.mark.parametrize("slot", [0, 1])
def test_a_scale_behind_a_quotient_goes_into_the_dividend(slot):
    net = Net()
    parts = [net.op("Exp", net.input("N", C, 4, 4)) for _ in range(2)]
    parts[slot] = conv(net)
    folded = fold(net.build(net.op("Tanh", net.op("Mul", net.op("Div", *parts), net.positive(C, 1, 1)))), slack=100)
    assert folded.count("Mul") == slot


def test_a_shift_does_not_sink_through_a_gate():
    net = Net()
    x = net.exact_bn(net.op("Tanh", net.input("N", C)), net.positive(C), net.draw(C))
    y = net.op("Mul", x, net.op("Exp", net.input("N", C)), name="gate")
    assert_stays(fold(net.build(net.op("Gemm", y, net.draw(C, 2)))), "product", "gate (Mul)")


def test_scales_along_two_axes_do_not_sink_through_a_gate():
    net = Net()
    parts = [net.op("Mul", net.op("Tanh", net.input("N", C, C)), net.positive(*shape)) for shape in ((C,), (C, 1))]
    assert not fold(net.build(net.op("Tanh", net.op("Mul", *parts)))).plan.steps


def test_a_zero_scale_does_not_sink_through_a_divisor():
    net = Net()
    y = net.op(
        "Div",
        net.op("Exp", net.input("N", C)),
        net.op("Mul", net.op("Exp", net.input("N", C)), np.zeros(C, np.float32)),
    )
    folded = fold(net.build(net.op("Gemm", y, net.draw(C, 2))))
    assert folded.count("Mul") == 1


def test_a_scaled_tensor_squared_carries_the_square():
    net = Net()
    x = net.op("Mul", net.op("Tanh", net.input("N", C)), net.draw(C))
    folded = fold(net.build(net.op("Gemm", net.op("Mul", x, x), net.draw(C, 2))))
    assert folded.count("Mul") == 1


# -- extremes, means, choices ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Max", "Min", "Mean"])
def test_an_affine_passes_what_treats_all_operands_alike(kind):
    net = Net()
    y = net.op(kind, conv(net), conv(net))
    folded = fold(net.build(net.op("Tanh", net.exact_bn(y, net.positive(C), net.draw(C)))))
    assert folded.count() == 4


def assert_sign_stays(model, words):
    """Size and shift of the one affine may go, its sign is left."""
    folded = fold(model)
    assert folded.count("BatchNormalization", "Mul") == 1
    assert "negative-scale" in folded.codes
    assert words in folded.sentences


@pytest.mark.parametrize("kind", ["Max", "Min"])
def test_a_negative_scale_does_not_pass_an_extreme(kind):
    net = Net()
    y = net.op(kind, conv(net), conv(net), name="extreme")
    assert_sign_stays(net.build(net.op("Tanh", net.exact_bn(y, -net.positive(C), net.draw(C)))), "extreme")


@pytest.mark.parametrize("kind", ["Max", "Min"])
def test_a_negative_scale_does_not_sink_through_an_extreme(kind):
    net = Net()
    x = net.exact_bn(net.op("Tanh", net.input("N", C)), -net.positive(C), net.draw(C))
    y = net.op(kind, x, net.op("Reshape", x, np.array([-1, C])), name="extreme")
    assert_sign_stays(net.build(net.op("Gemm", y, net.draw(C, 2))), f"extreme ({kind})")


def test_a_scale_of_zero_passes_an_extreme():
    net = Net()
    y = net.op("Max", conv(net), conv(net))
    assert fold(net.build(net.op("Tanh", net.exact_bn(y, [0.0, 1.5, 2.0, 0.5], net.draw(C))))).count() == 4


@pytest.mark.parametrize("kind", ["Max", "Mean"])
def test_a_scale_of_zero_that_all_operands_carry_sinks(kind):
    net = Net()
    x = net.exact_bn(net.op("Tanh", net.input("N", C)), [0.0, 1.5, 2.0, 0.5], net.draw(C))
    y = net.op(kind, x, net.op("Reshape", x, np.array([-1, C])))
    assert fold(net.build(net.op("Gemm", y, net.draw(C, 2)))).count("BatchNormalization") == 0


def test_a_number_that_carries_an_affine_itself_counts_like_a_tensor():
    net = Net()
    graph = load(net.build(net.op("Max", net.op("Tanh", net.input("N", C)), np.float32(1), name="join"))).graph
    node, affine = Node(graph, graph.op("join")), Affine.of(2.0, 1.0, None)
    alike = facts_of(node.op).sink(node, {0: affine, 1: affine})
    assert not isinstance(alike, Refusal)
    assert alike.affines[0].same_as(affine)
    assert alike.rewrite is None


def test_a_negative_scale_passes_a_mean():
    net = Net()
    y = net.op("Mean", conv(net), conv(net))
    assert fold(net.build(net.op("Tanh", net.exact_bn(y, -net.positive(C), net.draw(C))))).count() == 4


@pytest.mark.parametrize("kind", ["Max", "Mean"])
def test_an_operand_that_is_broadcast_stops_a_vector(kind):
    net = Net()
    thin = net.op("Conv", net.input("N", 3, 6, 6), net.draw(1, 3, 3, 3))
    folded = fold(net.build(net.op("Tanh", net.exact_bn(net.op(kind, conv(net), thin), net.positive(C), net.draw(C)))))
    assert_stays(folded, "broadcast")


@pytest.mark.parametrize(("kind", "sign"), [("Max", 1), ("Mean", -1)])
def test_what_all_operands_carry_sinks(kind, sign):
    net = Net()
    x = net.exact_bn(net.op("Tanh", net.input("N", C)), sign * net.positive(C), net.draw(C))
    y = net.op(kind, x, net.op("Reshape", x, np.array([-1, C])))
    assert fold(net.build(net.op("Gemm", y, net.draw(C, 2)))).count("BatchNormalization") == 0


@pytest.mark.parametrize("kind", ["Max", "Mean"])
def test_what_one_operand_alone_carries_does_not_sink(kind):
    net = Net()
    x = net.exact_bn(net.op("Tanh", net.input("N", C)), net.positive(C), net.draw(C))
    y = net.op(kind, x, net.op("Tanh", net.input("N", C)), name="join")
    assert_stays(fold(net.build(net.op("Gemm", y, net.draw(C, 2)))), "unequal-operands", f"join ({kind})")


def test_an_affine_passes_a_choice():
    net = Net()
    y = net.op("Where", net.input("N", 1, 4, 4, dtype=bool), conv(net), conv(net))
    assert fold(net.build(net.op("Tanh", net.bn(y, C)))).count() == 4


def test_an_affine_passes_a_choice_between_a_tensor_and_a_constant():
    net = Net()
    y = net.op("Where", net.input("N", 1, 4, 4, dtype=bool), conv(net), net.draw(C, 1, 1))
    assert fold(net.build(net.op("Tanh", net.bn(y, C)))).count() == 3


def masked(net: Net, x: str, number: object, kind: str) -> str:
    mask = [net.input("N", 1, 4, 4, dtype=bool)] if kind == "Where" else []
    return str(net.op(kind, *mask, x, number, name="mask"))


NUMBERS = [np.float32(0.0), np.full(1, -1.5, np.float32), np.full((1, 1, 1), 2.5, np.float32)]


@pytest.mark.parametrize("kind", ["Where", "Max", "Min", "Mean"])
@pytest.mark.parametrize("number", NUMBERS, ids=str)
def test_a_number_gets_the_affine_for_each_channel(kind, number):
    net = Net()
    y = masked(net, conv(net), number, kind)
    folded = fold(net.build(net.op("Tanh", net.exact_bn(y, net.positive(C), net.draw(C)))))
    assert folded.count() == 3


@pytest.mark.parametrize("kind", ["Where", "Max", "Mean"])
@pytest.mark.parametrize("number", NUMBERS, ids=str)
def test_a_number_gets_the_inverse_of_what_sinks(kind, number):
    net = Net()
    x = net.exact_bn(net.op("Tanh", net.input("N", C, 4, 4)), net.positive(C), net.draw(C))
    folded = fold(net.build(net.op("Conv", masked(net, x, number, kind), net.draw(2, C, 3, 3))))
    assert folded.count("BatchNormalization") == 0
    assert folded.count() == 3


@pytest.mark.parametrize("scale", [2.0, 0.0])
def test_no_number_stands_for_one_where_the_scale_is_zero(scale):
    net = Net()
    scales = net.positive(C)
    scales[1] = scale
    x = net.exact_bn(net.op("Tanh", net.input("N", C, 4, 4)), scales, net.draw(C))
    folded = fold(net.build(net.op("Conv", masked(net, x, np.float32(1.5), "Where"), net.draw(2, C, 3, 3))))
    if scale:
        assert folded.count("BatchNormalization") == 0
    else:
        assert_stays(folded, "zero-scale", "mask")


@pytest.mark.parametrize("kind", ["Where", "Max"])
def test_a_number_of_a_tensor_of_unknown_rank(kind):
    """A uniform affine needs no rank."""
    net = Net()
    x = net.unknown_rank(net.input(2, C), [2, C])
    x = net.op("Mul", net.op("Tanh", x), np.float32(2.0))
    x = net.op("Add", x, np.float32(0.5))
    y = net.op("Where", net.input(1, 1, dtype=bool), x, np.float32(3.0)) if kind == "Where" else net.op("Max", x, 0.25)
    net.output(net.op("MatMul", y, net.draw(C, 2)), shape=[None, None])
    folded = fold(net.build(), feeds=net.feeds)
    assert folded.count("Mul") == 0


def test_an_integer_is_no_number_for_an_affine():
    net = Net()
    x = net.op("Cast", net.op("Tanh", net.input("N", C)), to=6)
    y = net.op("Cast", net.op("Max", x, np.int32(1)), to=1)
    assert fold(net.build(net.op("Gemm", net.bn(y, C), net.draw(C, 2)))).count("Max") == 1


def test_a_mask_of_several_numbers_that_is_broadcast_stops_an_affine():
    net = Net()
    y = net.op("Where", net.input("N", 1, 4, 4, dtype=bool), conv(net), net.draw(1, 4), name="mask")
    assert_stays(fold(net.build(net.op("Tanh", net.bn(y, C)))), "broadcast", "mask (Where)")


def test_a_shared_number_is_copied():
    net = Net()
    zero = net.const(0.0)
    y = net.op("Tanh", net.bn(masked(net, conv(net), zero, "Max"), C))
    folded = fold(net.build(y, net.op("Max", net.input("N", 2), zero)))
    assert folded.count() == 4
