"""Who else sees the tensor: an affine moves only where nobody notices."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import Net, assert_close, assert_stays, constant, fold, op_counts, random_feeds, session
from onnx import helper

from bnfold.folding import fold_graph
from bnfold.folding.observers import other_reader, output_phrase, reader_phrase, sole_value_reader
from bnfold.formats import load
from bnfold.graph import ModelGraph, Op, Use

C = 4


def conv(net: Net, x: str | None = None, channels: int = C, inside: int = 3, **attrs) -> str:
    return net.op("Conv", x or net.input("N", inside, 5, 5), net.draw(channels, inside, 3, 3), **attrs)


# -- readers and outputs -----------------------------------------------------------------------------


def test_a_second_reader_of_the_producer_stops_the_way_back():
    net = Net()
    y = conv(net)
    folded = fold(net.build(net.op("Tanh", net.bn(y, C)), net.op("Sigmoid", y, name="other")))
    assert_stays(folded, "observed", "also seen by other")


def test_a_graph_output_stops_the_way_back():
    net = Net()
    y = conv(net)
    assert_stays(fold(net.build(net.op("Tanh", net.bn(y, C)), y)), "observed", "the model's output")


def test_a_batchnorm_that_is_an_output_goes_back():
    net = Net()
    y = net.bn(conv(net), C)
    folded = fold(net.build(y, net.op("Tanh", y)))
    assert folded.count() == 2
    assert folded.node("Conv").output[0] == y


def test_a_batchnorm_that_is_an_output_does_not_go_forward():
    net = Net()
    y = net.bn(net.op("Tanh", net.input("N", C)), C)
    folded = fold(net.build(y, net.op("Gemm", y, net.draw(C, 2))))
    assert_stays(folded, "observed", y, "the model's output")


def test_every_reader_has_to_take_an_affine_forward():
    for pads, left in ((0, 0), (1, 1)):
        net = Net()
        x = net.bn(net.op("Tanh", net.input("N", C, 6, 6)), C)
        y = [conv(net, x, 2, C), conv(net, x, 3, C, pads=[pads] * 4, name="padded")]
        folded = fold(net.build(*y))
        assert folded.count("BatchNormalization") == left
        if left:
            assert_stays(folded, "zero-padding", "padded (Conv)")


def test_attention_takes_a_batchnorm_into_all_three_projections():
    net = Net()
    x = net.op("Tanh", net.input("B", 5, C))
    x = net.op("Add", net.op("Mul", x, net.draw(C)), net.draw(C))
    q, k, v = (net.op("Add", net.op("MatMul", x, net.draw(C, C)), net.draw(C)) for _ in range(3))
    scores = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])))
    folded = fold(net.build(net.op("MatMul", scores, v)))
    assert folded.count("Mul") == 0
    assert folded.count("Add") == 3


@pytest.mark.parametrize("kind", ["If", "Loop", "model"])
def test_where_nothing_computes_a_tensor_the_reason_says_whose_it_is(kind):
    net = Net()
    x = net.input(2, C)
    inner = Net()
    inner.prefix = "inner"
    if kind == "Loop":
        inner.input(name="inner_i", dtype=np.int64)
        going = inner.input(name="inner_go", dtype=bool)
        inner.output(inner.op("Identity", going), shape=[], dtype=bool)
        inner.output(inner.op("Tanh", inner.bn(inner.input(2, C, name="inner_x"), C)), shape=[2, C])
        y = net.op("Loop", np.asarray(2), "", x, body=inner.graph("body"))
        words = "inner_x is an input of the subgraph"
    elif kind == "If":
        inner.output(inner.op("Tanh", inner.bn(x, C)), shape=[2, C])
        y = net.op("If", net.input(name="flag", dtype=bool), then_branch=inner.graph("a"), else_branch=inner.graph("b"))
        words = f"{x} is from outside of the subgraph"
    else:
        y = net.op("Tanh", net.bn(x, C))
        words = f"{x} is an input of the model"
    net.output(y, shape=[2, C])
    folded = fold(net.build())
    assert f"Backward: {words}." in folded.sentences
    assert words in folded.sentences.partition("With its stream:")[2]


# -- weights -----------------------------------------------------------------------------------------


def test_a_weight_that_two_layers_share_is_copied_before_it_changes():
    net = Net()
    shared, x = net.const(net.draw(C, 3, 3, 3), "shared"), net.input("N", 3, 5, 5)
    first, second = net.op("Conv", x, shared), net.op("Conv", net.op("Tanh", x), shared)
    folded = fold(net.build(net.op("Tanh", net.bn(first, C)), second))
    assert folded.count("BatchNormalization") == 0
    np.testing.assert_array_equal(folded.constant("shared"), constant(folded.before, "shared"))


def test_a_weight_shared_by_two_layers_that_change_alike_stays_shared():
    net = Net()
    shared = net.const(net.draw(C, 3, 3, 3), "shared")
    vectors = [net.const(net.positive(C)) for _ in range(4)]
    y = [net.op("BatchNormalization", net.op("Conv", net.input("N", 3, 5, 5), shared), *vectors) for _ in range(2)]
    folded = fold(net.build(*(net.op("Tanh", part) for part in y)))
    weights = [node.input[1] for node in folded.after.graph.node if node.op_type == "Conv"]
    assert weights[0] == weights[1]


def test_one_scale_along_the_rows_here_and_the_columns_there_makes_two_weights():
    net = Net()
    shared, scale = net.const(net.draw(C, C), "shared"), net.positive(C)
    behind = net.op("Mul", net.op("Gemm", net.input(2, C), shared), scale)
    ahead = net.op("Gemm", net.op("Mul", net.op("Tanh", net.input(2, C)), scale), shared)
    assert fold(net.build(behind, ahead)).count("Mul") == 0


def test_one_constant_as_weight_and_bias_of_two_layers():
    net = Net()
    shared = net.const(net.draw(C, C), "shared")
    y = net.bn(net.op("Gemm", net.input(C, C), shared, shared), C)
    folded = fold(net.build(net.op("Tanh", y)))
    assert folded.count() == 2


def test_a_weight_that_is_an_output_is_not_changed():
    net = Net()
    weight = net.const(net.draw(C, 3, 3, 3), "weight")
    y = net.bn(net.op("Conv", net.input("N", 3, 5, 5), weight), C)
    folded = fold(net.build(net.op("Tanh", y), net.op("Identity", weight)))
    assert folded.count("BatchNormalization") == 0


# -- constants the caller may override -----------------------------------------------------------------


def overridable(names: list[str] | None = None, *, ir_version: int = 8) -> onnx.ModelProto:
    """Conv, BN and Tanh whose initializers (all, or the named ones) are inputs too."""
    net = Net(opset=9)
    y = net.op("Conv", net.input("N", 3, 5, 5), net.const(net.draw(C, 3, 3, 3), "weight"))
    vectors = [net.const(net.positive(C), name) for name in ("gamma", "beta", "mean", "variance")]
    model = net.build(net.op("Tanh", net.op("BatchNormalization", y, *vectors, name="bn")))
    model.ir_version = ir_version
    for tensor in model.graph.initializer:
        if names is None or tensor.name in names:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model


def test_overridable_constants_become_true_constants_and_that_is_noted():
    folded = fold(overridable())
    assert folded.count() == 2
    assert [value.name for value in folded.after.graph.input] == ["x_1"]
    assert "5 weights were also inputs of the model" in folded.plan.notes[0]


@pytest.mark.parametrize("names", [["weight"], ["gamma"], ["variance"]])
def test_overridable_constants_stay_where_they_are_asked_to(names):
    folded = fold(overridable(names), keep_overridable=True)
    assert not folded.plan.steps
    assert folded.count("BatchNormalization") == 1
    assert [value.name for value in folded.after.graph.input] == ["x_1", *names]
    assert not folded.plan.notes


def test_true_constants_fold_beside_overridable_ones():
    net = Net()
    y = net.bn(net.op("Conv", net.input("N", 3, 5, 5), net.draw(C, 3, 3, 3)), C)
    weight = net.const(net.draw(2, C, 1, 1), "weight")
    model = net.build(net.op("Conv", net.op("Tanh", y), weight))
    model.graph.input.append(helper.make_tensor_value_info("weight", 1, [2, C, 1, 1]))
    folded = fold(model, keep_overridable=True)
    assert folded.count("BatchNormalization") == 0
    assert "weight" in [value.name for value in folded.after.graph.input]


def test_gemm_with_beta_zero_does_not_give_its_bias_to_the_caller():
    net = Net()
    y = net.op("Gemm", net.input("N", 3), net.draw(3, C), net.const(net.draw(C), "bias"), beta=0.0)
    model = net.build(net.op("Tanh", net.bn(y, C)))
    model.graph.input.append(helper.make_tensor_value_info("bias", 1, [C]))
    folded = fold(model, keep_overridable=True)
    assert folded.count("BatchNormalization") == 0
    assert folded.node("Gemm").input[2] != "bias"


def test_ir_3_still_passes_the_checker():
    folded = fold(overridable(ir_version=3))
    assert folded.count() == 2
    listed = {value.name for value in folded.after.graph.input}
    constants = {tensor.name for tensor in folded.after.graph.initializer}
    assert folded.after.ir_version >= 4 or constants <= listed


def test_ir_3_that_changes_nothing_stays_ir_3():
    net = Net(ir_version=3, opset=9)
    model = net.build(net.op("Tanh", net.input("N", 3)))
    assert fold(model).after.ir_version == 3


# -- names -------------------------------------------------------------------------------------------


def test_new_names_collide_with_nothing():
    """What the fold would call its new tensors, constants and nodes is taken already."""
    net = Net()
    y = net.op("Conv", net.input("N", 3, 5, 5), net.const(net.draw(C, 3, 3, 3), "w"), outputs=["y"], name="conv")
    z = net.op("Conv", net.op("Tanh", net.input("N", 3, 5, 5)), "w", outputs=["z"])
    y = net.exact_bn(net.op("MaxPool", y, kernel_shape=[2, 2], outputs=["pooled"]), net.positive(C), net.draw(C))
    taken = ["y_bias", "y_bias_2", "y_folded", "y_folded_2", "pooled_folded", "w_2"]
    others = [net.op("Neg", net.input(2), outputs=[name], name=f"{name}_2_bias") for name in taken]
    folded = fold(net.build(net.op("Tanh", y), z, *(net.op("Tanh", other) for other in others)), branches=False)
    assert folded.count("BatchNormalization") == 0


def test_nodes_without_names_fold():
    net = Net()
    y = net.op("Conv", net.input("N", 3, 5, 5), net.draw(C, 3, 3, 3), name="")
    y = net.bn(net.op("Identity", y, name=""), C, name="")
    folded = fold(net.build(net.op("Tanh", y, name="")))
    assert folded.count("BatchNormalization") == 0


def test_nodes_without_names_are_called_by_their_output():
    net = Net()
    y = net.op("Tanh", net.input("N", C), outputs=["hidden"], name="")
    folded = fold(net.build(net.op("Sigmoid", net.bn(y, C), name="")))
    assert "hidden (Tanh) is nonlinear" in folded.sentences


def test_tensors_whose_values_stay_keep_their_names_and_the_others_do_not():
    net = Net()
    y = net.op("Conv", net.input("N", 3, 6, 6), net.draw(C, 3, 3, 3), outputs=["first"])
    y = net.op("MaxPool", y, kernel_shape=[2, 2], outputs=["pooled"])
    y = net.op(
        "Relu",
        net.op("Identity", net.exact_bn(y, net.positive(C), net.draw(C)), outputs=["normal"]),
        outputs=["active"],
    )
    folded = fold(net.build(net.op("Conv", y, net.draw(2, C, 1, 1), outputs=["last"])))
    names = [node.output[0] for node in folded.after.graph.node]
    (step,) = folded.plan.steps
    assert names[-3:] == ["normal", "active", "last"]
    assert "first" in step.changed
    assert "first" not in names
    assert names[0] == step.changed["first"]


def test_values_of_surviving_names_are_what_they_were():
    net = Net()
    y = net.op("Relu", net.bn(conv(net), C))
    y = net.op("Conv", net.op("Dropout", net.bn(y, C)), net.draw(2, C, 1, 1))
    folded = fold(net.build(net.op("Tanh", net.bn(y, 2))))
    before = {name for node in folded.before.graph.node for name in node.output}
    shared = [name for node in folded.after.graph.node for name in node.output if name in before]
    assert len(shared) >= 3
    feeds = random_feeds(folded.before)
    for name in shared:
        values = []
        for model in (folded.before, folded.after):
            probe = onnx.ModelProto()
            probe.CopyFrom(model)
            probe.graph.output.append(helper.make_tensor_value_info(name, 1, None))
            values.append(session(probe).run([name], feeds))
        assert_close(*values)


# -- subgraphs ---------------------------------------------------------------------------------------


def capture(net: Net, tensor: str, shape: list[int]) -> str:
    """An If named ``choice`` whose branches do nothing but read the tensor by name."""
    bodies = []
    for side in ("then", "else"):
        node = helper.make_node("Identity", [tensor], [f"{side}_y"])
        bodies.append(helper.make_graph([node], side, [], [net.info(f"{side}_y", shape)]))
    flag = net.input(name="flag", dtype=bool)
    return net.op("If", flag, then_branch=bodies[0], else_branch=bodies[1], name="choice")


def inner_net(prefix: str, seed: int = 0) -> Net:
    """A subgraph under construction, whose names begin with ``prefix``."""
    net = Net(seed=seed)
    net.prefix = prefix
    return net


def if_model(build) -> tuple[Net, str]:
    """A net with an If whose two branches are made by ``build(net, x)``: (nodes, output, initializers)."""
    net = Net()
    x = net.op("Tanh", net.input(2, 3, 5, 5))
    condition = net.input(name="flag", dtype=bool)
    bodies = []
    for side in ("then", "else"):
        inner = inner_net(side, len(bodies))
        output = build(inner, x)
        inner.output(output, shape=[2, C, 3, 3])
        bodies.append(inner.graph(f"{side}_branch"))
    y = net.op("If", condition, then_branch=bodies[0], else_branch=bodies[1], name="choice")
    return net, y


def test_a_batchnorm_inside_a_branch_folds_there():
    net, y = if_model(lambda inner, x: inner.op("Tanh", inner.bn(conv(inner, x), C)))
    folded = fold(net.build(y))
    assert folded.count("BatchNormalization") == 0
    assert {step.scope for step in folded.plan.steps} == {"choice/then_branch", "choice/else_branch"}


def test_a_batchnorm_that_is_the_output_of_a_branch_folds_there():
    net, y = if_model(lambda inner, x: inner.bn(conv(inner, x), C))
    assert fold(net.build(y)).count("BatchNormalization") == 0


def test_a_branch_that_reads_an_outer_weight_folds_and_leaves_the_weight():
    net = Net()
    weight = net.const(net.draw(C, 3, 3, 3), "weight")
    x = net.input(2, 3, 5, 5)
    bodies = []
    for side in ("then", "else"):
        inner = inner_net(side, len(bodies))
        y = inner.op("Conv", x, weight)
        y = inner.bn(y, C) if side == "then" else y
        inner.output(y, shape=[2, C, 3, 3])
        bodies.append(inner.graph(side))
    y = net.op("If", net.input(name="flag", dtype=bool), then_branch=bodies[0], else_branch=bodies[1])
    folded = fold(net.build(y))
    assert folded.count("BatchNormalization") == 0
    np.testing.assert_array_equal(folded.constant("weight"), constant(folded.before, "weight"))


def test_a_tensor_that_a_branch_captures_is_observed():
    net = Net()
    y = conv(net, net.input(2, 3, 5, 5))
    z = capture(net, y, [2, C, 3, 3])
    folded = fold(net.build(net.op("Tanh", net.bn(y, C)), z))
    assert_stays(folded, "observed", "the body of choice")


def test_a_captured_batchnorm_goes_back_but_not_forward():
    for producer, left in (("Conv", 0), ("Tanh", 1)):
        net = Net()
        x = net.input(2, C, 5, 5)
        y = net.op("Tanh", x) if producer == "Tanh" else net.op("Conv", x, net.draw(C, C, 1, 1))
        y = net.bn(y, C)
        z = capture(net, y, [2, C, 5, 5])
        folded = fold(net.build(net.op("Conv", y, net.draw(2, C, 1, 1)), z))
        assert folded.count("BatchNormalization") == left
        if left:
            assert "the body of choice" in folded.sentences


def test_an_identity_batchnorm_that_a_branch_captures_leaves_its_name():
    net = Net()
    x = net.op("Tanh", net.input(2, C, 5, 5))
    y = net.exact_bn(x, np.ones(C), np.zeros(C))
    z = capture(net, y, [2, C, 5, 5])
    folded = fold(net.build(net.op("Sigmoid", x), z))
    assert folded.count("BatchNormalization") == 0


def loop_body(net: Net, make) -> onnx.GraphProto:
    """A Loop's body: iteration, condition and one carried tensor of shape [2, C, 4]."""
    inner = inner_net("body")
    inner.inputs = [
        helper.make_tensor_value_info("step", 7, []),
        helper.make_tensor_value_info("go", 9, []),
        helper.make_tensor_value_info("carried", 1, [2, C, 4]),
    ]
    output = make(inner, "carried")
    inner.nodes.append(helper.make_node("Identity", ["go"], ["go_on"]))
    inner.outputs = [helper.make_tensor_value_info("go_on", 9, []), helper.make_tensor_value_info(output, 1, [2, C, 4])]
    return inner.graph("body")


def test_a_batchnorm_inside_a_loop_folds_there():
    net = Net()
    body = loop_body(net, lambda inner, x: inner.op("Tanh", inner.bn(inner.op("Conv", x, inner.draw(C, C, 1)), C)))
    y = net.op("Loop", np.array(3), np.array(True), net.input(2, C, 4), body=body, name="loop")
    net.output(y, shape=[2, C, 4])
    assert fold(net.build()).count("BatchNormalization") == 0


def test_what_a_loop_carries_is_observed():
    net = Net()
    body = loop_body(net, lambda inner, x: inner.bn(inner.op("Tanh", x), C))
    y = net.op("Loop", np.array(3), np.array(True), net.input(2, C, 4), body=body, name="loop")
    net.output(y, shape=[2, C, 4])
    folded = fold(net.build())
    assert_stays(folded, "observed", "an output of the subgraph")
    assert folded.plan.remaining[0].scope == "loop/body"


def test_what_enters_a_loop_does_not_go_into_its_body():
    net = Net()
    body = loop_body(net, lambda inner, x: inner.op("Conv", x, inner.draw(C, C, 1)))
    start = net.bn(net.op("Tanh", net.input(2, C, 4)), C)
    y = net.op("Loop", np.array(2), np.array(True), start, body=body, name="loop")
    net.output(y, shape=[2, C, 4])
    assert_stays(fold(net.build()), "unknown-operator", "loop (Loop)")


def test_a_batchnorm_inside_a_scan_folds_there():
    net = Net()
    inner = inner_net("scan")
    inner.inputs = [helper.make_tensor_value_info("row", 1, [2, C])]
    y = inner.bn(inner.op("Gemm", "row", inner.draw(C, 3)), 3)
    inner.outputs = [helper.make_tensor_value_info(y, 1, [2, 3])]
    z = net.op("Scan", net.input(5, 2, C), body=inner.graph("body"), num_scan_inputs=1)
    assert fold(net.build(net.op("Tanh", z))).count("BatchNormalization") == 0


def test_a_branch_in_a_branch_folds():
    def nested(inner: Net, x: str) -> str:
        bodies = []
        for side in ("one", "two"):
            deep = inner_net(f"{inner.prefix}_{side}", len(bodies))
            y = deep.bn(conv(deep, x), C)
            deep.output(y, shape=[2, C, 3, 3])
            bodies.append(deep.graph(side))
        return inner.op("If", "flag", then_branch=bodies[0], else_branch=bodies[1])

    net, y = if_model(nested)
    folded = fold(net.build(y))
    assert folded.count("BatchNormalization") == 0
    assert folded.count("If") == 3


# -- functions ---------------------------------------------------------------------------------------


def function_model(calls: int = 2) -> onnx.ModelProto:
    """A model-local function (BN with parameters passed in, then ReLU), called behind convolutions."""
    net = Net()
    net.domains["local"] = 1
    node = [
        helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["n"], name="bn"),
        helper.make_node("Relu", ["n"], ["y"], name="relu"),
    ]
    opsets = [helper.make_opsetid("", net.opset)]
    net.functions.append(helper.make_function("local", "Normalise", ["x", *"sbmv"], ["y"], node, opsets))
    x = net.input("N", 3, 5, 5)
    outputs = []
    for _ in range(calls):
        vectors = [net.positive(C) for _ in range(4)]
        outputs.append(net.op("Normalise", conv(net, x), *vectors, domain="local"))
    for output in outputs:
        net.output(output, shape=["N", C, 3, 3])
    return net.build()


def test_functions_that_hold_a_batchnorm_are_inlined_and_fold():
    folded = fold(function_model())
    assert op_counts(folded.after) == {"Conv": 2, "Relu": 2}


# -- corners -----------------------------------------------------------------------------------------


def test_a_batchnorm_right_on_the_input_goes_forward():
    net = Net()
    y = net.bn(net.input("N", C, 5, 5), C)
    assert fold(net.build(conv(net, y, 2, C))).count() == 1


def test_a_batchnorm_on_the_input_with_nowhere_to_go_says_so():
    net = Net()
    x = net.input("N", C)
    assert_stays(fold(net.build(net.op("Tanh", net.bn(x, C)))), "model-input", x)


def test_a_batchnorm_from_input_to_output_stays():
    net = Net()
    assert_stays(fold(net.build(net.bn(net.input("N", C), C))), "model-input")


def test_an_identity_from_input_to_output_becomes_an_identity():
    net = Net()
    folded = fold(net.build(net.exact_bn(net.input("N", C), np.ones(C), np.zeros(C))))
    assert op_counts(folded.after) == {"Identity": 1}


def test_an_identity_whose_input_is_an_output_too():
    net = Net()
    x = net.op("Tanh", net.input("N", C))
    folded = fold(net.build(x, net.exact_bn(x, np.ones(C), np.zeros(C))))
    assert op_counts(folded.after) == {"Tanh": 1, "Identity": 1}


@pytest.mark.parametrize("to_output", [True, False])
def test_a_batchnorm_on_a_constant_is_a_constant(to_output):
    net = Net()
    y = net.bn(net.draw(2, C), C)
    folded = fold(net.build(y if to_output else net.op("Add", net.input(2, C), y)))
    assert folded.count("BatchNormalization") == 0


def test_a_batchnorm_on_a_computed_constant_is_a_constant():
    net = Net()
    y = net.bn(net.op("Transpose", net.draw(C, 2)), C)
    folded = fold(net.build(net.op("MatMul", net.input(3, 2), y)))
    assert folded.count() == 1


def test_conv_bn_conv_bn_all_fold():
    net = Net()
    y = net.bn(conv(net), C)
    y = net.bn(net.op("Conv", y, net.draw(2, C, 1, 1)), 2)
    folded = fold(net.build(y))
    assert folded.count("BatchNormalization") == 0


def test_what_is_skipped_stays():
    net = Net()
    y = net.bn(conv(net), C, name="first")
    y = net.bn(net.op("Conv", net.op("Relu", y), net.draw(2, C, 1, 1)), 2, name="second")
    model = net.build(y)
    graph, plan = fold_graph(load(model).graph, skip={"first"})
    assert [op.name for op in graph.ops() if op.type == "BatchNormalization"] == ["first"]
    assert [step.subject for step in plan.steps] == ["second"]


# -- composite functions ------------------------------------------------------------------------------


def test_the_constants_of_a_gelu_stay_and_what_is_around_it_folds():
    net = Net()
    x = net.bn(conv(net), C)
    erf = net.op("Erf", net.op("Div", x, np.float32(np.sqrt(2))))
    gelu = net.op("Mul", net.op("Mul", x, net.op("Add", erf, np.float32(1))), np.float32(0.5))
    folded = fold(net.build(net.op("Conv", net.op("Add", gelu, net.draw(C, 1, 1)), net.draw(2, C, 1, 1))))
    assert op_counts(folded.after) == {"Conv": 2, "Div": 1, "Erf": 1, "Add": 1, "Mul": 2}


@pytest.mark.parametrize("kind", ["Tanh", "Erf"])
def test_a_scalar_before_an_activation_alone_is_no_composite(kind):
    net = Net()
    y = net.op(kind, net.op("Mul", conv(net), np.float32(0.7)))
    assert fold(net.build(y)).count("Mul") == 0


def test_a_batchnorm_behind_a_written_out_normalisation_is_no_part_of_it():
    net = Net()
    x = net.op("Tanh", net.input("N", C, 6))
    centred = net.op("Sub", x, net.op("ReduceMean", x, axes=[2]))
    variance = net.op("ReduceMean", net.op("Mul", centred, centred), axes=[2])
    normal = net.op("Div", centred, net.op("Sqrt", net.op("Add", variance, np.float32(1e-5))))
    y = net.op("Conv", net.bn(normal, C), net.draw(2, C, 1))
    assert fold(net.build(y)).count("BatchNormalization") == 0


def test_what_a_sentence_calls_those_who_see_a_tensor():
    graph = ModelGraph()
    graph.put(Op("two", "Relu", ("a",), ("b",)))
    graph.put(Op("loop", "Loop", (), ("c",), captures=("a",), label="my_loop"))
    assert output_phrase(graph) == "the model's output"
    assert output_phrase(ModelGraph(parent=graph)) == "an output of the subgraph"
    assert reader_phrase(graph, Use("two", 0)) == "b", "nameless operators are called by their output"
    assert reader_phrase(graph, Use("loop", None)) == "the body of my_loop"


def test_who_asks_for_the_shape_alone_is_no_reader_of_values():
    graph = ModelGraph()
    graph.put(Op("relu", "Relu", ("a",), ("b",)))
    graph.put(Op("shape", "Shape", ("a",), ("c",)))
    relu = Use("relu", 0)
    assert graph.sole_reader("a") is None
    assert sole_value_reader(graph, "a") == relu
    assert other_reader(graph, "a", {relu}) is None
    assert other_reader(graph, "a", ()) == relu
    graph.put(Op("loop", "Loop", (), ("d",), captures=("a",)))
    assert sole_value_reader(graph, "a") is None
    assert other_reader(graph, "a", {relu}) == Use("loop", None)
    graph.remove("loop")
    graph.outputs = ["a"]
    assert sole_value_reader(graph, "a") is None
