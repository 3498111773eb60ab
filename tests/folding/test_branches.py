"""Parallel linear branches become one convolution, and so do convolutions in a row where that is cheaper."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
import pytest
from helpers import Folded, Net, assert_close, constant, fold, op_counts, random_feeds, run
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from bnfold.folding import FoldStep, fold_graph
from bnfold.formats import load

C = 6
PADDED = [1, 1, 1, 1]


def conv(net: Net, x: str, out: int = C, kernel=3, *, within: int | None = None, group: int = 1, bias=False, **attrs):
    """A Conv of ``C`` input channels, padded to keep the size unless told otherwise."""
    window = [kernel, kernel] if isinstance(kernel, int) else list(kernel)
    if "auto_pad" not in attrs and "pads" not in attrs:
        dilations = attrs.get("dilations", [1] * len(window))
        half = [(size - 1) * dilation // 2 for size, dilation in zip(window, dilations, strict=True)]
        attrs["pads"] = [*half, *half]
    weight = net.draw(out, (C if within is None else within * group) // group, *window)
    return net.op("Conv", x, weight, *([net.draw(out)] if bias else []), group=group, **attrs)


def conv_bn(net: Net, x: str, out: int = C, kernel=3, **attrs) -> str:
    return net.bn(conv(net, x, out, kernel, **attrs), out)


def relu_of_sum(net: Net, *branches: str, kind: str = "Add"):
    """The model whose output is the ReLU of a sum of tensors, added up from the left or by one Sum."""
    if kind == "Sum":
        return net.build(net.op("Relu", net.op("Sum", *branches)))
    total = branches[0]
    for branch in branches[1:]:
        total = net.op("Add", total, branch)
    return net.build(net.op("Relu", total))


def multiply_adds(model: onnx.ModelProto, size: int = 8) -> int:
    """Multiplications by constants for one image of that size, whatever the operator."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    model.graph.ClearField("value_info")
    for value in [*model.graph.input, *model.graph.output]:
        for place, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param:
                dim.dim_value = 1 if place == 0 else size
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    for value in [*inferred.value_info, *inferred.output, *inferred.input]:
        shapes.setdefault(value.name, [dim.dim_value for dim in value.type.tensor_type.shape.dim])
    total = 0
    for node in inferred.node:
        out = shapes[node.output[0]]
        if node.op_type == "Conv":
            total += prod(out) * prod(shapes[node.input[1]][1:])
        elif node.op_type == "AveragePool":
            window = next(attribute.ints for attribute in node.attribute if attribute.name == "kernel_shape")
            total += prod(out) * prod(window)
        elif node.op_type in ("BatchNormalization", "Mul"):
            total += prod(out)
    return total


def merge(model: onnx.ModelProto, **options) -> Folded:
    """:func:`helpers.fold`, and the multiply-adds do not rise."""
    folded = fold(model, **options)
    assert multiply_adds(folded.after) <= multiply_adds(folded.before)
    return folded


def assert_one_conv(folded: Folded, *others: str) -> onnx.NodeProto:
    """One Conv and one Relu are left, and ``others``."""
    assert sorted(node.op_type for node in folded.after.graph.node) == sorted(["Conv", "Relu", *others])
    return folded.node("Conv")


def attribute(node: onnx.NodeProto, name: str):
    return next(helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name)


def branch_steps(folded: Folded, kind: str = "branch") -> list[FoldStep]:
    return [step for step in folded.plan.steps if step.kind == kind]


# -- published blocks --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["S", 8], ids=["dynamic", "static"])
@pytest.mark.parametrize("group", [1, 2])
def test_a_repvgg_block_becomes_one_convolution(group, size):
    net = Net()
    x = net.op("Relu", net.input("N", C, size, size))
    model = relu_of_sum(net, conv_bn(net, x, group=group), conv_bn(net, x, kernel=1, group=group), net.bn(x, C))
    folded = merge(model)
    node = assert_one_conv(folded, "Relu")
    assert attribute(node, "pads") == PADDED
    assert attribute(node, "group") == group
    assert len(branch_steps(folded)) == 1


@pytest.mark.parametrize("size", ["S", 7, 8], ids=["dynamic", "odd", "even"])
def test_a_repvgg_block_with_a_stride_becomes_one_convolution(size):
    net = Net()
    x = net.input("N", C, size, size)
    model = relu_of_sum(net, conv_bn(net, x, 8, strides=[2, 2]), conv_bn(net, x, 8, 1, strides=[2, 2]))
    folded = merge(model, feeds=None if size != "S" else {x: np.ones((1, C, 5, 6), np.float32)})
    assert attribute(assert_one_conv(folded), "strides") == [2, 2]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_merged_weights_have_the_dtype_of_the_branches(dtype):
    net = Net(dtype=dtype)
    x = net.input("N", C, 8, 8)
    folded = merge(relu_of_sum(net, conv_bn(net, x), conv_bn(net, x, kernel=1), net.bn(x, C)))
    assert_one_conv(folded)
    assert {tensor.data_type for tensor in folded.after.graph.initializer} == {
        helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    }


@pytest.mark.parametrize("branches", [1, 3])
@pytest.mark.parametrize("kind", ["Add", "Sum"])
def test_a_mobileone_block_becomes_one_depthwise_and_one_pointwise_convolution(branches, kind):
    net = Net()
    x = net.input("N", C, 8, 8)
    depthwise = [conv_bn(net, x, group=C) for _ in range(branches)]
    depthwise += [conv_bn(net, x, kernel=1, group=C), net.bn(x, C)]
    total = net.op("Sum", *depthwise) if kind == "Sum" else added(net, depthwise)
    y = net.op("Relu", total)
    pointwise = [conv_bn(net, y, kernel=1) for _ in range(branches)]
    folded = merge(relu_of_sum(net, *pointwise, net.bn(y, C), kind=kind))
    assert op_counts(folded.after) == {"Conv": 2, "Relu": 2}
    first, second = (node for node in folded.after.graph.node if node.op_type == "Conv")
    assert (attribute(first, "group"), attribute(second, "group")) == (C, 1)


def added(net: Net, tensors: list[str]) -> str:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = net.op("Add", total, tensor)
    return total


def test_an_asymmetric_convolution_block_becomes_one_convolution():
    """ACNet (Ding et al. 2019): 3x3 + 1x3 + 3x1."""
    net = Net()
    x = net.input("N", C, 8, 8)
    folded = merge(relu_of_sum(net, *(conv_bn(net, x, kernel=kernel) for kernel in ((3, 3), (1, 3), (3, 1)))))
    assert attribute(assert_one_conv(folded), "kernel_shape") == [3, 3]


def diverse_branches(net: Net, x: str, pads: list[int], *, bias: bool) -> list[str]:
    """A Diverse Branch Block (Ding et al. 2021): k x k, 1x1, 1x1 → k x k, 1x1 → average; unpadded ones crop the 1x1."""

    def inner() -> str:
        y = conv(net, x, 8, 1)
        return net.bn(y, 8) if bias else net.op("Mul", y, net.draw(8, 1, 1))

    chained = conv(net, inner(), C, 3, within=8, pads=pads)
    average = net.op(
        "AveragePool", conv(net, inner(), C, 1, within=8), kernel_shape=[3, 3], pads=pads, count_include_pad=1
    )
    branches = [conv_bn(net, x, pads=pads), net.bn(chained, C), net.bn(average, C)]
    return [*branches, conv_bn(net, x, kernel=1)] if any(pads) else branches


def test_a_diverse_branch_block_becomes_one_convolution():
    net = Net()
    x = net.input("N", C, 8, 8)
    folded = merge(relu_of_sum(net, *diverse_branches(net, x, [0] * 4, bias=True)))
    assert attribute(assert_one_conv(folded), "pads") == [0] * 4


def test_a_padded_diverse_branch_block_becomes_one_convolution_where_nothing_is_lost_at_the_border():
    net = Net()
    x = net.input("N", C, 8, 8)
    folded = merge(relu_of_sum(net, *diverse_branches(net, x, PADDED, bias=False)))
    assert attribute(assert_one_conv(folded), "pads") == PADDED


def test_a_shift_before_a_padded_convolution_keeps_that_branch_alone():
    net = Net()
    x = net.input("N", C, 8, 8)
    folded = merge(relu_of_sum(net, *diverse_branches(net, x, PADDED, bias=True)))
    # The merged one, 1x1 → 3x3, and 1x1 whose average is taken: no shift passes that, but the sum behind it.
    assert folded.count("Conv") == 4
    assert folded.count("AveragePool") == 1
    assert folded.count("BatchNormalization") == 0


def test_a_block_with_a_batchnorm_behind_the_sum_becomes_one_convolution():
    """QARepVGG (Chu et al. 2022)."""
    net = Net()
    x = net.input("N", C, 8, 8)
    total = added(net, [conv_bn(net, x), conv(net, x, kernel=1), x])
    assert_one_conv(merge(net.build(net.op("Relu", net.bn(total, C)))))


def test_a_token_mixer_with_layer_scale_becomes_one_convolution():
    """FastViT's RepMixer (Vasu et al. 2023): ``x + gamma * (mix(x) - norm(x))``."""
    net = Net()
    x = net.input("N", C, 8, 8)
    mixed = added(net, [conv_bn(net, x, group=C), conv_bn(net, x, kernel=1, group=C), net.bn(x, C)])
    difference = net.op("Sub", mixed, net.bn(x, C))
    y = net.op("Add", x, net.op("Mul", difference, net.draw(C, 1, 1)))
    folded = merge(net.build(net.op("Relu", y)))
    assert attribute(assert_one_conv(folded), "group") == C


def test_blocks_in_a_row_merge_one_by_one():
    net = Net()
    y = net.input("N", C, 8, 8)
    for _ in range(3):
        y = net.op("Relu", added(net, [conv_bn(net, y), conv_bn(net, y, kernel=1), net.bn(y, C)]))
    folded = merge(net.build(y))
    assert op_counts(folded.after) == {"Conv": 3, "Relu": 3}


# -- how the taps line up ----------------------------------------------------------------------------

ALIGNED = {
    "one dilation": ([{"dilations": [2, 2]}, {"dilations": [2, 2]}], [3, 3], [2, 2]),
    "1x1 has any dilation": ([{"dilations": [3, 2]}, {"kernel": 1}], [3, 3], [3, 2]),
    "5x5 over a dilated 3x3": ([{"kernel": 5}, {"dilations": [2, 2]}], [5, 5], [1, 1]),
    "dilated 3x1 and 3x3": (
        [{"kernel": (3, 1), "dilations": [2, 1]}, {"kernel": (3, 3), "dilations": [2, 2]}], [3, 3], [2, 2],
    ),
    "even kernels": ([{"kernel": 2, "pads": [0, 0, 1, 1]}, {"kernel": 2, "pads": [0, 0, 1, 1]}], [2, 2], [1, 1]),
    "even and 1x1": ([{"kernel": 4, "pads": [1, 2, 2, 1]}, {"kernel": 1}], [4, 4], [1, 1]),
    "asymmetric": ([{"pads": [0, 2, 2, 0]}, {"kernel": 1}], [3, 3], [1, 1]),
    "padded 1x1": ([{"pads": [2, 2, 2, 2]}, {"kernel": 1, "pads": [1, 1, 1, 1]}], [3, 3], [1, 1]),
    "unpadded": ([{"pads": [0] * 4}, {"auto_pad": "VALID"}], [3, 3], [1, 1]),
    "same upper": ([{"kernel": 4, "auto_pad": "SAME_UPPER"}, {"kernel": 1}], [4, 4], [1, 1]),
    "same lower": ([{"kernel": 4, "auto_pad": "SAME_LOWER"}, {"kernel": 3}], [4, 4], [1, 1]),
    "same upper and explicit": ([{"auto_pad": "SAME_UPPER"}, {"pads": PADDED}], [3, 3], [1, 1]),
    "same with a stride": (
        [{"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"kernel": 1, "auto_pad": "SAME_LOWER", "strides": [2, 2]}],
        [3, 3], [1, 1],
    ),
    "same lower with a stride": (
        [{"auto_pad": "SAME_LOWER", "strides": [2, 1]}, {"kernel": 2, "auto_pad": "SAME_LOWER", "strides": [2, 1]}],
        [3, 3], [1, 1],
    ),
    "two taps": (
        [{"kernel": 1, "pads": [2, 0, 0, 0]}, {"kernel": 1, "pads": [0, 0, 2, 0]}], [2, 1], [2, 1],
    ),
    "uneven strides": ([{"strides": [3, 1]}, {"kernel": 1, "strides": [3, 1]}], [3, 3], [1, 1]),
}  # fmt: skip


@pytest.mark.parametrize("sizes", [(8, 9), (7, 6)])
@pytest.mark.parametrize(("settings", "kernel", "dilations"), ALIGNED.values(), ids=ALIGNED)
def test_kernels_are_embedded_where_their_taps_are(settings, kernel, dilations, sizes):
    net = Net()
    x = net.input("N", C, *sizes)
    folded = merge(relu_of_sum(net, *(conv(net, x, **attrs, bias=True) for attrs in settings)))
    node = assert_one_conv(folded)
    assert attribute(node, "kernel_shape") == kernel
    assert attribute(node, "dilations") == dilations


def test_a_smaller_kernel_first_changes_nothing():
    net = Net()
    x = net.input("N", C, 8, 8)
    folded = merge(relu_of_sum(net, net.bn(x, C), conv(net, x, kernel=1), conv(net, x)))
    assert_one_conv(folded)


@pytest.mark.parametrize("dims", [1, 3])
def test_other_ranks(dims):
    net = Net()
    x = net.input("N", C, *[5] * dims)
    branches = [conv_bn(net, x, kernel=[3] * dims), conv_bn(net, x, kernel=[1] * dims), net.bn(x, C)]
    assert_one_conv(merge(relu_of_sum(net, *branches)))


GROUPS = {
    "equal": (2, 2, 2),
    "one divides the other": (3, 6, 3),
    "common divisor": (2, 3, 1),
    "depthwise and dense": (1, 6, 1),
}


@pytest.mark.parametrize(("first", "second", "merged"), GROUPS.values(), ids=GROUPS)
def test_groups_become_the_common_ones(first, second, merged):
    net = Net()
    x = net.input("N", C, 8, 8)
    branches = [conv(net, x, group=first), conv(net, x, group=second, kernel=1), conv(net, x)]
    folded = merge(relu_of_sum(net, *branches[: 3 if merged == 1 else 2]))
    assert attribute(assert_one_conv(folded), "group") == merged


def test_output_channels_may_be_a_multiple_of_the_groups():
    net = Net()
    x = net.input("N", C, 8, 8)
    branches = [conv(net, x, 12, group=3), conv(net, x, 12, 1, group=3), conv(net, x, 12, (3, 1), group=6)]
    assert attribute(assert_one_conv(merge(relu_of_sum(net, *branches))), "group") == 3


# -- where merging would cost more -------------------------------------------------------------------

DEARER = {
    "mixed dilations": [{}, {"dilations": [2, 2]}],
    "depthwise with a larger kernel and dense": [{"kernel": 5, "group": C}, {"kernel": 1}],
    "a cross": [{"kernel": (5, 1)}, {"kernel": (1, 5)}],
    "groups without a common divisor": [{"group": 2}, {"group": 3}],
    "far apart": [{"kernel": (2, 1), "pads": [5, 0, 0, 0]}, {"kernel": (2, 1), "pads": [0, 0, 5, 0]}],
}


@pytest.mark.parametrize("settings", DEARER.values(), ids=DEARER)
def test_branches_that_one_convolution_would_make_dearer_stay(settings):
    net = Net()
    x = net.input("N", C, 8, 8)
    folded = merge(relu_of_sum(net, *(conv(net, x, **attrs) for attrs in settings)))
    assert not folded.plan.steps


def test_what_is_dearer_together_may_be_cheaper_in_part():
    net = Net()
    x = net.input("N", C, 9, 9)
    folded = merge(relu_of_sum(net, conv(net, x), conv(net, x, kernel=1), conv(net, x, dilations=[3, 3])))
    assert op_counts(folded.after) == {"Conv": 2, "Add": 1, "Relu": 1}


UNLIKE = {
    "strides": [{"strides": [2, 2]}, {"strides": [2, 1], "kernel": 1}],
    "output sizes": [{}, {"kernel": 1, "pads": [0, 0, 1, 1]}],
    "a width of one": [{"kernel": (3, 8), "pads": [1, 0, 1, 0]}, {}],
    "output channels": [{"out": 1}, {}],
}


@pytest.mark.parametrize("settings", UNLIKE.values(), ids=UNLIKE)
def test_branches_with_another_output_stay(settings):
    net = Net()
    x = net.input("N", C, 8, 8)
    tensors = [conv(net, x, **attrs) for attrs in settings]
    # Where the outputs could not be added they meet in a Concat of their pooled values.
    model = (
        relu_of_sum(net, *tensors)
        if settings in (UNLIKE["a width of one"], UNLIKE["output channels"])
        else net.build(net.op("Concat", *(net.op("GlobalMaxPool", net.op("Relu", t)) for t in tensors), axis=1))
    )
    assert not merge(model).plan.steps


def test_unknown_sizes_that_need_not_agree_stay():
    """With a stride the two agree for even sizes only; a graph that never says so is not trusted."""
    net = Net()
    x = net.input("N", C, "H", "W")
    first, second = (conv(net, x, strides=[2, 2], pads=pads) for pads in ([1, 1, 1, 1], [1, 1, 0, 0]))
    folded = merge(relu_of_sum(net, first, second), feeds={x: np.ones((1, C, 6, 8), np.float32)})
    assert not folded.plan.steps


@pytest.mark.parametrize(("size", "merged"), [(8, True), (7, False)])
def test_paddings_that_differ_merge_where_the_size_makes_them_agree(size, merged):
    net = Net()
    x = net.input("N", C, size, 8)
    first, second = (conv(net, x, strides=[2, 2], pads=[1, 1, end, 1]) for end in (1, 0))
    if merged:
        assert_one_conv(merge(relu_of_sum(net, first, second)))
    else:
        pooled = [net.op("GlobalMaxPool", tensor) for tensor in (first, second)]
        assert not merge(net.build(net.op("Relu", net.op("Add", *pooled)))).plan.steps


# -- who else is there -------------------------------------------------------------------------------


def test_a_branch_that_is_an_output_of_the_model_stays():
    net = Net()
    x = net.input("N", C, 8, 8)
    a, b = conv(net, x), conv(net, x, kernel=1)
    net.output(a)
    assert not merge(relu_of_sum(net, a, b)).plan.steps


def test_a_branch_with_a_second_reader_stays():
    net = Net()
    x = net.input("N", C, 8, 8)
    a, b = conv(net, x), conv(net, x, kernel=1)
    net.output(net.op("Sigmoid", a))
    assert not merge(relu_of_sum(net, a, b)).plan.steps


def test_an_observed_tensor_within_a_branch_ends_the_branch_there():
    net = Net()
    x = net.input("N", C, 8, 8)
    inner = conv(net, x, 4, 1)
    net.output(inner)
    folded = merge(relu_of_sum(net, conv(net, inner, within=4), conv(net, x)))
    assert not folded.plan.steps


def test_an_observed_partial_sum_stays():
    net = Net()
    x = net.input("N", C, 8, 8)
    partial = net.op("Add", conv(net, x), conv(net, x, kernel=1))
    net.output(partial)
    folded = merge(relu_of_sum(net, partial, net.bn(x, C)))
    assert op_counts(folded.after)["Conv"] == 1
    assert op_counts(folded.after)["Add"] == 1


def test_a_branch_that_a_subgraph_reads_stays():
    net = Net()
    x = net.input("N", C, 8, 8)
    a, b = conv(net, x), conv(net, x, kernel=1)
    condition = net.input(name="condition", dtype=bool)
    bodies = [
        helper.make_graph(
            [helper.make_node(kind, [a], [f"{kind}_out"])], kind, [], [net.info(f"{kind}_out", ["N", C, 8, 8])]
        )
        for kind in ("Sigmoid", "Tanh")
    ]
    net.output(net.op("If", condition, then_branch=bodies[0], else_branch=bodies[1]))
    assert not merge(relu_of_sum(net, a, b)).plan.steps


def test_branches_inside_a_subgraph_merge_and_may_read_from_outside():
    net = Net()
    x = net.op("Relu", net.input("N", C, 8, 8))
    inner = Net(seed=1)
    total = inner.op("Relu", added(inner, [conv_bn(inner, x), conv_bn(inner, x, kernel=1), inner.bn(x, C)]))
    body = helper.make_graph(inner.nodes, "then", [], [inner.info(total, ["N", C, 8, 8])], inner.initializers)
    other = helper.make_graph(
        [helper.make_node("Sigmoid", [x], ["other"])], "else", [], [net.info("other", ["N", C, 8, 8])]
    )
    y = net.op("If", net.input(name="condition", dtype=bool), then_branch=body, else_branch=other)
    folded = fold(net.build(y))
    assert op_counts(folded.after) == {"Relu": 2, "If": 1, "Sigmoid": 1, "Conv": 1}


def test_branches_of_different_sources_stay():
    net = Net()
    x, z = (net.input("N", C, 8, 8) for _ in range(2))
    folded = merge(relu_of_sum(net, conv(net, x), conv(net, z, kernel=1)))
    assert not folded.plan.steps


def test_each_source_gets_its_own_convolution():
    net = Net()
    x, z = (net.input("N", C, 8, 8) for _ in range(2))
    branches = [conv(net, x), conv(net, z), conv_bn(net, x, kernel=1), net.bn(z, C)]
    folded = merge(relu_of_sum(net, *branches))
    assert op_counts(folded.after) == {"Conv": 2, "Add": 1, "Relu": 1}


def test_one_tensor_twice_in_a_sum_stays():
    net = Net()
    x = net.input("N", C, 8, 8)
    y = conv(net, x)
    assert not merge(relu_of_sum(net, y, y)).plan.steps


def test_weights_that_others_read_are_copied():
    net = Net()
    x = net.input("N", C, 8, 8)
    shared = net.const(net.draw(C, C, 3, 3), "shared")
    a, b = (net.op("Conv", tensor, shared, pads=PADDED) for tensor in (x, net.op("Sigmoid", x)))
    net.output(net.op("Relu", b))
    folded = merge(relu_of_sum(net, a, conv(net, x, kernel=1)))
    assert folded.count("Conv") == 2
    np.testing.assert_array_equal(folded.constant("shared"), constant(folded.before, "shared"))


def test_branches_that_share_their_weight_merge():
    net = Net()
    x = net.input("N", C, 8, 8)
    shared = net.const(net.draw(C, C, 3, 3), "shared")
    a, b = (net.op("Conv", x, shared, net.draw(C), pads=PADDED) for _ in range(2))
    assert_one_conv(merge(relu_of_sum(net, a, b)))


def test_weights_that_the_caller_may_override_stay_where_that_is_asked():
    net = Net()
    x = net.input("N", C, 8, 8)
    weight = net.const(net.draw(C, C, 3, 3), "weight")
    net.inputs.append(net.info(weight, [C, C, 3, 3]))
    model = relu_of_sum(net, net.op("Conv", x, weight, pads=PADDED), conv(net, x, kernel=1))
    graph, plan = fold_graph(load(model).graph, keep_overridable=True)
    assert not plan.steps
    assert len(graph) == 4
    assert len(fold_graph(load(model).graph)[0]) == 2


def test_weights_computed_at_run_time_stay():
    net = Net()
    x = net.input("N", C, 8, 8)
    weight = net.input(C, C, 3, 3, name="weight")
    assert not merge(relu_of_sum(net, net.op("Conv", x, weight, pads=PADDED), conv(net, x, kernel=1))).plan.steps


def test_half_precision_that_would_overflow_stays():
    net = Net(dtype=np.float16)
    x = net.input("N", C, 8, 8)
    weight = np.full((C, C, 1, 1), 4e4, np.float16)
    folded = fold(relu_of_sum(net, net.op("Conv", x, weight), net.op("Conv", x, weight)))
    assert not folded.plan.steps


def test_parallel_affines_whose_sum_would_overflow_stay():
    net = Net(dtype=np.float16)
    x = net.op("Sigmoid", net.input("N", C, 8, 8))
    folded = fold(relu_of_sum(net, net.exact_bn(x, np.full(C, 4e4), 1.0), net.exact_bn(x, np.full(C, 5e4), -1.0)))
    assert not folded.plan.steps


# -- what is left over -------------------------------------------------------------------------------


def leftovers(net: Net, count: int, *shape) -> list[str]:
    return [net.op("Sigmoid", net.input(*(shape or ("N", C, 8, 8)))) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_one_sum_of_many_stays_one_sum(count):
    net = Net()
    x = net.input("N", C, 8, 8)
    rest = leftovers(net, count)
    folded = merge(relu_of_sum(net, rest[0], conv(net, x), *rest[1:], conv(net, x, kernel=1), kind="Sum"))
    sums = {"Add": 1} if count == 1 else {"Sum": 1}
    assert op_counts(folded.after) == {"Conv": 1, "Relu": 1, "Sigmoid": count, **sums}


@pytest.mark.parametrize(("count", "merged"), [(2, True), (3, False)])
def test_no_more_additions_are_made_than_there_were(count, merged):
    """What is taken off by one Sum would have to be taken off piece by piece."""
    net = Net()
    x = net.input("N", C, 8, 8)
    taken = net.op("Sum", conv(net, x, kernel=1), *leftovers(net, count))
    folded = merge(net.build(net.op("Relu", net.op("Sub", conv(net, x), taken))))
    assert bool(folded.plan.steps) == merged
    assert op_counts(folded.after)["Sub"] == (count if merged else 1)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1), (0, 2, 1, 3), (2, 3, 0, 1)])
def test_nested_additions_keep_what_is_left_over(order):
    net = Net()
    x = net.input("N", C, 8, 8)
    tensors = [conv(net, x), conv(net, x, kernel=1), *leftovers(net, 2)]
    folded = merge(relu_of_sum(net, *(tensors[place] for place in order)))
    assert op_counts(folded.after) == {"Conv": 1, "Relu": 1, "Sigmoid": 2, "Add": 2}


def test_an_addition_outside_of_the_branches_stays_as_it_is():
    net = Net()
    x = net.input("N", C, 8, 8)
    (rest,) = leftovers(net, 1)
    y = net.op("Add", rest, net.op("Add", conv(net, x), net.bn(x, C)), name="outer")
    folded = merge(net.build(net.op("Relu", y)))
    outer = folded.node("Add")
    assert outer.name == "outer"
    assert outer.input[0] == rest


@pytest.mark.parametrize("form", ["a - b", "(a - b) - c", "c - (a - b)", "(a - c) - b", "c - (a + b)", "(c - a) - b"])
def test_signs_are_kept(form):
    net = Net()
    x = net.input("N", C, 8, 8)
    names = {"a": conv(net, x, bias=True), "b": net.bn(x, C)}
    if "c" in form:
        (names["c"],) = leftovers(net, 1)

    class Term:
        def __init__(self, name: str) -> None:
            self.name = name

        def __add__(self, other: Term) -> Term:
            return Term(net.op("Add", self.name, other.name))

        def __sub__(self, other: Term) -> Term:
            return Term(net.op("Sub", self.name, other.name))

    total = eval(form, {name: Term(tensor) for name, tensor in names.items()})
    folded = merge(net.build(net.op("Relu", total.name)))
    assert folded.count("Conv") == 1
    assert folded.count("BatchNormalization") == 0
    assert folded.count("Add", "Sub") == form.count("c")


def test_a_constant_that_is_left_over_is_added():
    net = Net()
    x = net.input("N", C, 8, 8)
    folded = merge(relu_of_sum(net, conv(net, x), net.const(net.draw(C, 8, 8)), conv(net, x, kernel=1)))
    assert op_counts(folded.after) == {"Conv": 1, "Add": 1, "Relu": 1}


def test_what_is_left_over_may_be_broadcast():
    net = Net()
    x = net.input("N", C, 1, 1)
    narrow, wide = net.op("Sigmoid", net.input(1, 1)), net.op("Sigmoid", net.input("N", C, 4, 5))
    total = added(net, [conv(net, x, kernel=1), narrow, wide, conv(net, x, kernel=1)])
    folded = merge(net.build(net.op("Relu", total)))
    assert op_counts(folded.after) == {"Conv": 1, "Sigmoid": 2, "Add": 2, "Relu": 1}


def test_partial_sums_are_known_by_their_own_shapes():
    net = Net()
    x = net.input(2, C, 1, 1)
    small, wide = net.op("Sigmoid", net.input(2, C, 1, 1)), net.op("Sigmoid", net.input(2, C, 4, 5))
    total = added(net, [conv(net, x, kernel=1), small, wide, conv(net, x, kernel=1)])
    graph, _ = fold_graph(load(net.build(net.op("Relu", total))).graph)
    shapes = [graph.tensor(op.outputs[0]).shape for op in graph.ops() if op.type in ("Conv", "Add")]
    assert sorted(shapes) == [(2, C, 1, 1), (2, C, 1, 1), (2, C, 4, 5)]


def test_the_merged_tensor_is_known_by_the_shape_of_the_branches():
    """The operator that gives its name to the merged one may have put out another shape."""
    net = Net()
    x = net.input("N", 4, 8, 8)
    deep = net.op("Conv", net.op("Conv", x, net.draw(3, 4, 3, 3), pads=PADDED), net.draw(4, 3, 1, 1))
    ones = [net.op("Conv", x, net.draw(4, 4, 1, 1)) for _ in range(2)]
    rest = leftovers(net, 1, "N", 4, 8, 8)
    folded = merge(relu_of_sum(net, deep, ones[0], rest[0], ones[1]))
    assert op_counts(folded.after) == {"Conv": 1, "Sigmoid": 1, "Add": 1, "Relu": 1}
    graph, _ = fold_graph(load(folded.before).graph)
    (tensor,) = (op.outputs[0] for op in graph.ops() if op.type == "Conv")
    assert graph.tensor(tensor).shape == ("N", 4, 8, 8)


def test_a_very_wide_sum_is_left_alone():
    net = Net()
    x = net.input("N", C, 4, 4)
    folded = merge(relu_of_sum(net, *(conv(net, x, kernel=1) for _ in range(65))))
    assert folded.count("Conv") == 65


# -- branches that are no more than affines ----------------------------------------------------------


@pytest.mark.parametrize("operands", [["x", "bn"], ["bn", "bn"], ["bn", "x", "bn", "x"]])
def test_parallel_affines_become_one(operands):
    net = Net()
    x = net.op("Relu", net.input("N", C, 8, 8))
    folded = merge(relu_of_sum(net, *(x if operand == "x" else net.bn(x, C) for operand in operands)))
    assert op_counts(folded.after) == {"Relu": 2, "BatchNormalization": 1}


def test_parallel_affines_along_the_width_become_one():
    """Channels and width have the same size: the axis must be the width's."""
    net = Net()
    x = net.op("Relu", net.input("N", C, 4, C))
    folded = merge(relu_of_sum(net, net.op("Mul", x, net.draw(C)), net.op("Mul", x, net.draw(C)), x))
    assert op_counts(folded.after) == {"Relu": 2, "Mul": 1}


@pytest.mark.parametrize("first", [(C,), (C, 1, 1)])
def test_affines_along_different_axes_stay_apart(first):
    net = Net()
    x = net.op("Relu", net.input("N", C, 4, C))
    second = (C, 1, 1) if first == (C,) else (C,)
    folded = merge(relu_of_sum(net, net.op("Mul", x, net.draw(*first)), net.op("Mul", x, net.draw(*second))))
    assert folded.count("Mul", "Add") == 3


def test_an_affine_along_the_width_is_no_part_of_a_convolution():
    net = Net()
    x = net.op("Relu", net.input("N", C, C, C))
    folded = merge(relu_of_sum(net, conv(net, x), net.op("Mul", x, net.draw(C))))
    assert not folded.plan.steps


def test_parallel_affines_that_cancel_out_leave_nothing():
    net = Net()
    x = net.op("Relu", net.input("N", C, 8, 8))
    some = net.op("Mul", x, np.float32(0.25))
    rest = net.op("Mul", x, np.full((C, 1, 1), 0.75, np.float32))
    folded = merge(relu_of_sum(net, some, rest))
    assert folded.count("Mul", "Add") == 0


def test_before_opset_7_parallel_affines_stay():
    """No constant of those times can be shaped for the sum; nothing must fail over it."""
    net = Net(opset=6)
    x = net.op("Relu", net.input(2, C, 8, 8))
    first, second = (net.bn(x, C, is_test=1) for _ in range(2))
    model = net.build(net.op("Relu", net.op("Add", first, second)))
    graph, plan = fold_graph(load(model).graph)
    assert not plan.steps
    assert len(graph) == 5


def test_old_broadcasting_ends_a_sum():
    net = Net(opset=6)
    x = net.input(2, C, 8, 8)
    total = net.op("Add", net.op("Add", conv(net, x), net.input(C, name="z"), broadcast=1, axis=1), conv(net, x))
    graph, plan = fold_graph(load(net.build(total)).graph)
    assert not plan.steps
    assert len(graph) == 4


@pytest.mark.parametrize("kind", ["Identity", "Dropout"])
def test_operators_that_do_nothing_are_identities(kind):
    net = Net()
    x = net.op("Relu", net.input("N", C, 8, 8))
    folded = merge(relu_of_sum(net, conv_bn(net, x), net.op(kind, x)))
    assert_one_conv(folded, "Relu")


def test_a_dropout_whose_mask_is_read_stays():
    net = Net()
    x = net.op("Relu", net.input("N", C, 8, 8))
    dropped, mask = net.op("Dropout", x, outputs=2)
    net.output(mask, dtype=bool)
    folded = merge(relu_of_sum(net, conv_bn(net, x), dropped))
    assert folded.count("Dropout") == 1


def test_a_mean_over_a_window_is_a_depthwise_convolution():
    net = Net()
    x = net.op("Relu", net.input("N", C, 8, 8))
    pooled = net.op("AveragePool", x, kernel_shape=[3, 3], pads=PADDED, count_include_pad=1)
    assert attribute(assert_one_conv(merge(relu_of_sum(net, conv(net, x, group=C), pooled)), "Relu"), "group") == C


def test_a_batchnorm_that_is_merged_does_not_stay_in_the_plan():
    """It was stuck before, and the convolution must not go by its name."""
    net = Net()
    x = net.op("Relu", net.input("N", C, 8, 8))
    pooled = net.op("AveragePool", x, kernel_shape=[3, 3], pads=PADDED, count_include_pad=1, name="mean")
    folded = merge(relu_of_sum(net, net.bn(pooled, C, name="norm"), x))
    assert assert_one_conv(folded, "Relu").name == "mean"
    assert not folded.plan.remaining
    assert folded.plan.fate("norm") == branch_steps(folded)[0]


def test_an_affine_that_would_take_more_operators_than_the_branches_stays():
    """Two numbers are no BatchNormalization, but a Mul and an Add."""
    net = Net()
    x = net.op("Relu", net.input("N", C, 8, 8))
    norm = net.exact_bn(x, np.full(C, 2.0), np.full(C, 1.0))
    assert not merge(relu_of_sum(net, norm, x, *leftovers(net, 1), kind="Sum")).plan.steps


@pytest.mark.parametrize("attrs", [{"pads": PADDED}, {"auto_pad": "SAME_UPPER"}])
def test_a_mean_that_leaves_out_the_padding_is_none(attrs):
    net = Net()
    x = net.op("Relu", net.input("N", C, 8, 8))
    folded = merge(relu_of_sum(net, conv(net, x, group=C), net.op("AveragePool", x, kernel_shape=[3, 3], **attrs)))
    assert not folded.plan.steps


# -- chains ------------------------------------------------------------------------------------------


def chain(net: Net, *convs: dict, x: str | None = None, size: int = 8) -> onnx.ModelProto:
    """Convolutions in a row, each with as many input channels as the one before it has output channels."""
    within, x = C, x or net.input("N", C, size, size)
    for attrs in convs:
        x = conv(net, x, **attrs, within=within // attrs.get("group", 1))
        within = attrs.get("out", C)
    return net.build(net.op("Relu", x))


CHEAPER = {
    "1x1 to 3x3": [{"out": 32, "kernel": 1}, {}],
    "1x1 to 3x3 without padding": [{"out": 32, "kernel": 1, "bias": True}, {"pads": [0] * 4, "bias": True}],
    "1x1 to 3x3 with a stride": [{"out": 32, "kernel": 1}, {"strides": [2, 2]}],
    "1x1 to dilated 3x3": [{"out": 32, "kernel": 1}, {"dilations": [2, 2]}],
    "3x3 to 1x1": [{"out": 32, "bias": True}, {"kernel": 1, "bias": True}],
    "3x3 with a stride to 1x1": [{"out": 32, "strides": [2, 2]}, {"kernel": 1}],
    "1x1 to 1x1": [{"out": 32, "kernel": 1, "bias": True}, {"kernel": 1, "bias": True}],
    "depthwise 1x1 to 3x3": [{"kernel": 1, "group": C}, {}],
    "depthwise 1x1 to unpadded depthwise": [{"kernel": 1, "group": C, "bias": True}, {"group": C, "pads": [0] * 4}],
    "groups": [{"out": 32, "kernel": 1, "group": 2}, {"group": 2}],
    "dense to groups": [{"out": 64, "kernel": 1}, {"group": 2}],
    "three in a row": [{"out": 32, "kernel": 1}, {"out": 32, "kernel": 1}, {"kernel": 1}],
}


@pytest.mark.parametrize("convs", CHEAPER.values(), ids=CHEAPER)
def test_convolutions_in_a_row_become_one_where_that_is_cheaper(convs):
    folded = merge(chain(Net(), *convs))
    assert_one_conv(folded)
    assert len(branch_steps(folded, "chain")) == len(convs) - 1
    assert multiply_adds(folded.after) < multiply_adds(folded.before)


KEPT = {
    "dearer": [{"out": 2, "kernel": 1}, {}],
    "as dear": [{"out": C // 2, "kernel": 1}, {"kernel": 1}],
    "a bias before padding": [{"out": 32, "kernel": 1, "bias": True}, {}],
    "depthwise to pointwise": [{"group": C}, {"kernel": 1}],
    "two windows": [{"out": 32}, {}],
    "a stride before": [{"out": 32, "kernel": 1, "strides": [2, 2]}, {}],
    "a padded 1x1 before": [{"out": 32, "kernel": 1, "pads": PADDED}, {}],
    "a stride behind": [{"out": 32}, {"kernel": 1, "strides": [2, 2]}],
}


@pytest.mark.parametrize("convs", KEPT.values(), ids=KEPT)
def test_convolutions_in_a_row_stay_where_one_is_dearer_or_none_is_equal(convs):
    folded = merge(chain(Net(), *convs))
    assert not folded.plan.steps


def test_an_observed_tensor_between_two_convolutions_keeps_them_apart():
    net = Net()
    middle = conv(net, net.input("N", C, 8, 8), 32, 1)
    net.output(middle)
    folded = merge(net.build(net.op("Relu", conv(net, middle, within=32))))
    assert not folded.plan.steps


def test_a_second_reader_keeps_convolutions_apart():
    net = Net()
    middle = conv(net, net.input("N", C, 8, 8), 32, 1)
    net.output(net.op("Relu", conv(net, middle, within=32)), net.op("Relu", conv(net, middle, kernel=1, within=32)))
    assert not merge(net.build()).plan.steps


def test_a_batchnorm_between_two_convolutions_is_no_hindrance():
    net = Net()
    middle = conv_bn(net, net.input("N", C, 8, 8), 32, 1)
    assert_one_conv(merge(net.build(net.op("Relu", conv_bn(net, middle, within=32, pads=[0] * 4)))))


# -- random blocks ----------------------------------------------------------------------------------


class Block:
    """A sum of random branches: what one may write between two ReLUs."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.net = Net(seed=seed)
        self.stride = int(self.random.choice([1, 1, 2]))
        size = ["H", "W"] if self.random.random() < 0.3 else [int(n) for n in self.random.integers(5, 9, 2)]
        self.x = self.net.op("Relu", self.net.input("N", C, *size))

    def conv(self, x: str, *, within: int = C, out: int = C, stride: int = 1, pointwise: bool = False) -> str:
        """Padded at random, but so that only the stride makes the image smaller."""
        random = self.random
        kernel = [1, 1] if pointwise else [int(n) for n in random.integers(1, 4, 2)]
        dilations = [int(n) for n in random.integers(1, 3, 2)]
        total = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
        begins = [int(random.integers(0, n + 1)) for n in total]
        ends = [n - begin for n, begin in zip(total, begins, strict=True)]
        group = int(random.choice([n for n in (1, 1, 2, 3, 6) if not within % n and not out % n]))
        operands = [self.net.draw(out, within // group, *kernel), *([self.net.draw(out)] * int(random.integers(0, 2)))]
        strides = [stride, stride]
        attrs = {"dilations": dilations, "group": group, "pads": [*begins, *ends], "strides": strides}
        return self.net.op("Conv", x, *operands, **attrs)

    def branch(self) -> str:
        kinds = ["conv", "conv bn", "from 1x1", "to 1x1", "other"]
        kind = self.random.choice(kinds + ["bn", "identity", "pool"] * (self.stride == 1))
        if kind == "bn":
            return self.net.bn(self.x, C)
        if kind == "identity":
            return self.x
        if kind == "pool":
            return self.net.op("AveragePool", self.x, kernel_shape=[3, 3], pads=PADDED, count_include_pad=1)
        if kind == "other":
            return self.net.op("Sigmoid", self.conv(self.x, stride=self.stride))
        if kind == "from 1x1":
            inner = self.conv(self.x, out=12, pointwise=True)
            return self.conv(inner, within=12, stride=self.stride)
        if kind == "to 1x1":
            return self.conv(self.conv(self.x, out=12, stride=self.stride), within=12, pointwise=True)
        y = self.conv(self.x, stride=self.stride)
        return self.net.bn(y, C) if kind == "conv bn" else y

    def model(self) -> onnx.ModelProto:
        branches = [self.branch() for _ in range(self.random.integers(2, 6))]
        if self.random.random() < 0.2:
            self.net.output(self.net.op("Tanh", branches[0]))
        while len(branches) > 1:
            count = int(self.random.integers(2, len(branches) + 1)) if self.random.random() < 0.3 else 2
            kind = "Sum" if count > 2 else self.random.choice(["Add", "Sub"])
            branches.append(self.net.op(str(kind), *(branches.pop(0) for _ in range(count))))
        total = self.net.bn(branches[0], C) if self.random.random() < 0.3 else branches[0]
        return self.net.build(self.net.op("Relu", total))


@pytest.mark.slow
@settings(max_examples=150)
@given(st.integers(0, 2**32))
@example(144)  # two merges in one sum: what the second one makes stands before what the first one made
def test_random_blocks(seed):
    """Equal outputs, no multiply-add more, no operator more, nothing left for a second run."""
    folded = merge(Block(seed).model(), feeds=None, slack=5)
    assert op_counts(folded.after).total() <= op_counts(folded.before).total()


# -- the rest of the promise -------------------------------------------------------------------------


def repvgg(net: Net) -> onnx.ModelProto:
    x = net.op("Relu", net.input("N", C, 8, 8, name="image"))
    y = net.op("Conv", x, net.draw(C, C, 3, 3), pads=PADDED, name="conv3")
    z = net.op("Conv", x, net.draw(C, C, 1, 1), name="conv1")
    branches = [net.bn(y, C, name="bn3"), net.bn(z, C, name="bn1"), net.bn(x, C, name="bn0")]
    total = net.op("Add", net.op("Add", *branches[:2], name="inner"), branches[2], name="outer")
    return net.build(net.op("Relu", total, outputs=["y"]))


def test_without_branches_every_operator_of_the_sum_stays():
    folded = merge(repvgg(Net()), branches=False)
    assert op_counts(folded.after) == {"Relu": 2, "Conv": 2, "BatchNormalization": 1, "Add": 2}
    chained = merge(chain(Net(), *CHEAPER["1x1 to 3x3"]), branches=False)
    assert chained.count("Conv") == 2


def test_the_plan_says_what_became_of_every_batchnorm():
    plan = merge(repvgg(Net())).plan
    (step,) = (step for step in plan.steps if step.kind == "branch")
    assert step.subject == "outer"
    assert step.into == ("conv3",)
    assert step.holders == ("conv3",)
    assert set(step.removed) == {"conv1", "bn0"}
    assert step.sentence() == "outer (Add): merged with its parallel branches into conv3"
    assert plan.fate("bn0") == step
    for name in ("bn3", "bn1"):
        fate = plan.fate(name)
        assert isinstance(fate, FoldStep)
        assert fate.kind == "backward"
    assert not plan.remaining


def test_the_output_of_the_sum_keeps_its_name():
    model = repvgg(Net())
    outer = next(node for node in model.graph.node if node.name == "outer")
    assert merge(model).node("Conv").output[0] == outer.output[0]


@pytest.mark.parametrize("name", ["outer", "conv1"])
def test_operators_that_were_asked_to_stay_do(name):
    folded = merge(repvgg(Net()), skip={name})
    assert name in {node.name for node in folded.after.graph.node}


def shuffled(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The same model with its nodes in another topological order."""
    random = np.random.default_rng(seed)
    made = {value.name for value in model.graph.input} | {tensor.name for tensor in model.graph.initializer}
    waiting, order = list(model.graph.node), []
    while waiting:
        ready = [node for node in waiting if made.issuperset(node.input)]
        node = ready[random.integers(len(ready))]
        waiting.remove(node)
        order.append(node)
        made.update(node.output)
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    copy.graph.ClearField("node")
    copy.graph.node.extend(order)
    return copy


def test_the_order_of_the_nodes_does_not_matter():
    net = Net()
    x = net.input("N", C, 8, 8)
    (rest,) = leftovers(net, 1)
    branches = [conv_bn(net, x), rest, net.bn(x, C), conv_bn(net, x, kernel=1), conv(net, x, dilations=[3, 3])]
    model = relu_of_sum(net, *branches)
    expected = {tensor.name: tensor for tensor in merge(model).after.graph.initializer}
    for seed in range(3):
        after = merge(shuffled(model, seed)).after
        assert {tensor.name: tensor for tensor in after.graph.initializer} == expected


def test_doubles_merge_without_loss():
    """onnxruntime has no Conv of doubles; the arithmetic is checked by onnx's reference."""
    net = Net(dtype=np.float64)
    x = net.input(2, C, 6, 6)
    model = relu_of_sum(net, conv_bn(net, x), conv_bn(net, x, kernel=1), net.bn(x, C))
    loaded = load(model)
    graph, _ = fold_graph(loaded.graph)
    after = loaded.with_graph(graph).to_proto()
    assert op_counts(after) == {"Conv": 1, "Relu": 1}
    assert {tensor.data_type for tensor in after.graph.initializer} == {TensorProto.DOUBLE}
    feeds = random_feeds(model)
    expected, actual = (ReferenceEvaluator(m).run(None, feeds) for m in (model, after))
    assert_close(expected, actual)


def test_the_reference_agrees_on_a_merged_block():
    """onnxruntime is not the only judge."""
    folded = merge(repvgg(Net()))
    feeds = random_feeds(folded.before)
    expected = ReferenceEvaluator(folded.before).run(None, feeds)
    assert_close(expected, run(folded.after, feeds))
