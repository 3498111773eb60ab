"""Affines that no search can move alone go with the stream that they read."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, fold, lines_of, random_feeds
from onnx import helper
from streams import SAME, C, activated, block, conv, deviations, gone, head, in_float64, stem, stream, together

from bnfold.folding import fold_graph
from bnfold.formats import load

N = np.nan


def test_every_bn_of_a_preactivation_stream_goes():
    folded = gone(stream({}, {}, {}), "BatchNormalization", "Mul")
    assert folded.count("Add") == 3
    assert folded.count("Conv") == 4


def test_the_folded_weights_are_right_to_the_last_digits_of_float64():
    folded = gone(stream({}, {}, {}))
    feeds = random_feeds(folded.before)
    before, after = in_float64(folded.before, feeds), in_float64(folded.after, feeds)
    assert deviations(before, after) < 3e-7  # the weights are rounded to float32 once


@pytest.mark.parametrize("pool", [("MaxPool", {"pads": SAME}), ("AveragePool", {}), ("MaxPool", {})])
def test_a_shortcut_that_pools_passes_the_gauge_on(pool):
    kind, attrs = pool

    def down(net: Net, x: str) -> str:
        y = activated(net, x, "down")
        shortcut = net.op(kind, x, kernel_shape=[3, 3], strides=[2, 2], **attrs)
        pads = SAME if attrs else [0] * 4
        return net.op("Add", shortcut, conv(net, y, kernel=3, strides=[2, 2], pads=pads))

    gone(stream({}, down, {}))


def test_a_strided_shortcut_convolution_that_reads_the_stream_takes_its_shift():
    def down(net: Net, x: str) -> str:
        y = activated(net, x, "down")
        return net.op("Add", conv(net, x, strides=[2, 2]), conv(net, y, kernel=3, strides=[2, 2], pads=SAME))

    gone(stream({}, down, {}))


def test_a_shortcut_that_pads_with_zeros_holds_the_shift_of_the_stream_it_reads():
    def padded(net: Net, x: str) -> str:
        y = activated(net, x, "held")
        return net.op("Add", conv(net, x, kernel=3, pads=SAME), conv(net, y, kernel=3, pads=SAME))

    folded = fold(stream({}, padded, {}))
    assert folded.count("BatchNormalization") == 1
    assert set(together(folded)) == {"held"}
    assert "pads with zeros" in together(folded)["held"]


def test_a_difference_pays_back_with_the_other_sign():
    def subtract(net: Net, x: str) -> str:
        return net.op("Sub", x, block(net, x, "minus"))

    def subtracted(net: Net, x: str) -> str:
        return net.op("Sub", block(net, x, "from"), x)

    gone(stream(subtract, {}, subtracted, {}))


def test_a_stream_through_split_and_concat():
    def shuffled(net: Net, x: str) -> str:
        left, right = net.op("Split", x, np.array([C // 2, C // 2]), outputs=2, axis=1)
        new = conv(net, right, C // 2, kernel=1, width=C // 2)
        return net.op("Concat", left, new, axis=1)

    gone(stream({}, shuffled, {}))


def test_a_stream_through_a_channel_shuffle():
    def shuffled(net: Net, x: str) -> str:
        apart = net.op("Reshape", x, np.array([0, 2, C // 2, 8, 8]))
        turned = net.op("Transpose", apart, perm=[0, 2, 1, 3, 4])
        return net.op("Reshape", turned, np.array([0, C, 8, 8]))

    gone(stream({}, shuffled, {}, shuffled, {}))


def test_two_streams_that_meet():
    net = Net()
    x = stem(net)
    other = conv(net, x)
    x = net.op("Add", x, block(net, x, "one"))
    other = net.op("Add", other, block(net, other, "two"))
    x = net.op("Add", x, other)
    gone(head(net, net.op("Add", x, block(net, x, "three"))))


def test_one_bn_of_a_dense_block_has_its_wish():
    net = Net()
    features = stem(net)
    for number, width in enumerate((C, C + 2, C + 4)):
        norm = net.bn(features, width, name=f"dense{number}")
        new = conv(net, net.op("Relu", norm), 2, width=width, kernel=3, pads=SAME)
        features = net.op("Concat", features, new, axis=1)
    folded = fold(net.build(conv(net, net.op("Relu", net.bn(features, C + 6)), 2, width=C + 6)))
    assert folded.count("BatchNormalization") == 3
    assert all("want different shifts" in sentence for sentence in together(folded).values())


def test_of_a_long_dense_block_one_bn_goes_and_the_work_grows_like_its_equations():
    def block_of(count):
        net = Net()
        features, width = stem(net), C
        for _ in range(count):
            branch = conv(net, net.op("Relu", net.bn(features, width)), 2, width=width)
            features, width = net.op("Concat", features, branch, axis=1), width + 2
        return net.build(conv(net, net.op("Relu", net.bn(features, width)), 2, width=width))

    assert fold(block_of(8)).count("BatchNormalization") == 8
    few, many = (load(block_of(count)).graph for count in (8, 32))
    once = lines_of(lambda: fold_graph(few))
    assert lines_of(lambda: fold_graph(many)) < 5 * once


def test_no_bn_of_a_dense_block_whose_features_come_out_of_a_relu():
    net = Net()
    features = net.op("Relu", stem(net))
    for number in range(2):
        new = conv(net, net.op("Relu", net.bn(features, C + 2 * number)), 2, width=C + 2 * number)
        features = net.op("Concat", features, new, axis=1)
    folded = fold(net.build(conv(net, net.op("Relu", net.bn(features, C + 4)), 2, width=C + 4)))
    assert folded.count("BatchNormalization") == 3
    assert "relu_" in next(iter(together(folded).values()))


def test_a_stream_that_is_the_model_s_output_keeps_its_shift():
    net = Net()
    x = stem(net)
    x = net.op("Add", x, block(net, x, "free"))
    x = net.op("Add", x, block(net, x, "held"))
    seen = net.op("Add", x, block(net, x, "last"))
    net.output(x)
    folded = fold(net.build(seen))
    assert "free" not in together(folded)
    assert "is the model's output" in together(folded)["last"]


def test_a_bn_that_puts_out_what_the_model_returns_goes_and_the_name_stays():
    net = Net()
    x = stem(net)
    x = net.op("Add", x, block(net, x, "first"))
    y = net.bn(x, C, name="returned")
    folded = gone(net.build(y))
    assert folded.after.graph.output[0].name == y


def test_a_stream_that_a_subgraph_reads_keeps_its_shift():
    net = Net()
    x = stem(net)
    seen = net.op("Add", x, block(net, x, "free"))
    body = helper.make_graph(
        [helper.make_node("Identity", [seen], ["inner"], name="inside")], "body", [], [net.info("inner", None)]
    )
    taken = net.op("If", net.const(np.array(True), dtype=np.bool_), then_branch=body, else_branch=body)
    folded = fold(head(net, net.op("Add", net.op("Add", seen, block(net, seen, "held")), taken)))
    assert "held" in together(folded)
    assert "body of" in together(folded)["held"]


@pytest.mark.parametrize("signs", [[1, 1, 1, 1, 1, 1], [-1, 1, -1, 1, 1, 1]])
def test_the_sign_of_a_stream_is_free_where_all_agree(signs):
    gamma = np.array(signs) * 0.7
    net = Net()
    x = stem(net)
    for number in range(2):
        x = net.op("Add", x, block(net, x, f"bn{number}", gamma=gamma))
    y = activated(net, x, "last", gamma=gamma)
    gone(net.build(conv(net, y)), "BatchNormalization", "Mul")


def test_where_signs_disagree_a_multiplication_by_them_is_left():
    folded = gone(stream({"gamma": [-1, N, N, N, N, N]}, {}, {"gamma": [N, -1, N, N, N, N]}))
    # One of the four, or those two that agree, have their wish.
    assert 1 <= folded.count("Mul") <= 2
    for node in folded.after.graph.node:
        if node.op_type == "Mul":
            np.testing.assert_array_equal(np.abs(folded.constant(node.input[1])), 1.0)
    assert all(" sign" in sentence for sentence in together(folded).values())


def test_the_sign_that_most_agree_on_is_taken():
    other = {"gamma": [-1, N, N, N, N, N]}
    folded = gone(stream(other, {}, {}, {}))
    assert folded.count("Mul") == 1


def test_a_pooled_maximum_before_the_stream_fixes_its_sign():
    net = Net()
    x = net.op("MaxPool", stem(net), kernel_shape=[3, 3], pads=SAME)
    x = net.op("Add", x, block(net, x, "bn0", gamma=[-1, N, N, N, N, N]))
    folded = gone(head(net, x))
    assert folded.count("Mul") == 1
    assert "MaxPool" in together(folded)["bn0"]


def test_a_tanh_takes_no_scale_so_the_stream_does():
    net = Net()
    x = stem(net)
    x = net.op("Add", x, block(net, x, "bn0", act="Tanh"))
    folded = fold(net.build(net.op("Tanh", net.bn(x, C, name="bn1"))))
    assert set(together(folded)) <= {"bn0", "bn1"}
    assert folded.count("BatchNormalization") == 1


def test_the_work_grows_with_the_length_of_the_stream_and_no_faster():
    few, many = (load(stream(*[{"kernel": 1}] * count)).graph for count in (20, 80))
    once = lines_of(lambda: fold_graph(few))
    assert lines_of(lambda: fold_graph(many)) < 5 * once


def test_leaving_one_step_out_leaves_its_bn_and_the_others_go():
    model = stream({}, {}, {})
    folded = fold(model, skip={"bn1"})
    assert folded.count("BatchNormalization") == 1
    assert {node.name for node in folded.after.graph.node if node.op_type == "BatchNormalization"} == {"bn1"}


def test_a_step_says_which_bn_went_which_stream_changed_and_who_makes_up_for_it():
    folded = gone(stream({}, {}))
    step = next(step for step in folded.plan.steps if step.label == "bn0")
    assert step.kind.value == "gauge"
    assert "folded with its stream into" in step.sentence()
    assert step.stream in step.sentence()
    assert step.repaid
    assert step.to_dict()["stream"] == step.stream


def test_weights_that_two_convolutions_share_are_copied_before_they_change():
    net = Net()
    shared = net.const(0.3 * net.draw(C, C, 1, 1))
    x = stem(net)
    for number in range(2):
        x = net.op("Add", x, net.op("Conv", activated(net, x, f"bn{number}"), shared))
    gone(head(net, x))


def test_a_neg_that_became_an_identity_writes_no_gauge():
    """Two Negs in a row are an Identity: it has no weights to write the stream that the Add behind it wishes for."""
    net = Net()
    x = net.bn(net.op("Tanh", net.input("N", 6, 4, 2)), 6)
    net.output(net.op("LeakyRelu", x), shape=["N", 6, 4, 2])
    y = net.op("Add", net.op("Neg", x), net.draw(6, 4, 1))
    y = net.op("Neg", net.op("Mean", net.draw(1, 1), y))
    fold(net.build(net.op("Tanh", net.op("Concat", y, y, axis=2))))


@pytest.mark.parametrize("twice", [False, True])
def test_an_affine_that_a_subgraph_reads_leaves_its_name_to_the_stream(twice):
    """The multiplication goes if the stream is scaled; of two, one gives the stream its name."""
    net = Net()
    x = stem(net)
    seen = [net.op("Mul", x, np.full((C, 1, 1), 1.5, np.float32), name=f"mul{number}") for number in range(1 + twice)]
    other = conv(net, x)
    ends = []
    for tensor in seen:
        nodes = [helper.make_node("Identity", [tensor], [f"in_{tensor}"], name=f"inside_{tensor}")]
        body = helper.make_graph(nodes, "body", [], [net.info(f"in_{tensor}", None)])
        ends.append(net.op("If", net.const(np.array(True), dtype=np.bool_), then_branch=body, else_branch=body))
    y = other
    for end in ends:
        y = net.op("Add", y, end)
    folded = fold(head(net, y))
    assert folded.count("Mul") == 0


def test_two_multiplications_by_signs_do_not_take_turns():
    """Of two BN with signs on either side of a ReLU one becomes a multiplication; the other stays what it is."""
    net = Net()
    signs = np.array([-1.0, 1.0, -1.0, 1.0, 1.0, 1.0])
    x = net.exact_bn(net.input("N", C, 4, 4), signs * net.positive(C), net.draw(C))
    y = net.op("Max", x, net.const(np.zeros(()), dtype=np.float32))
    folded = fold(net.build(net.exact_bn(y, signs[::-1] * net.positive(C), net.draw(C))))
    assert folded.count("BatchNormalization", "Mul") == 2


@pytest.mark.parametrize("merged", [False, True])
def test_what_a_normalisation_writes_is_free_though_what_it_reads_is_not(merged):
    """Its scale and its bias write any gauge. Merged branches make the first BN the last that is looked at."""
    net = Net()
    x = net.op("Conv", net.input("N", 3, 5, 5), net.draw(C, 3, 1, 1))
    y = net.op("Add", net.bn(x, C), x) if merged else net.bn(x, C)
    y = net.op("Sigmoid", y)
    net.output(net.bn(y, C), shape=["N", C, 5, 5])
    y = net.op("InstanceNormalization", y, net.positive(C), net.draw(C), epsilon=0.1)
    net.output(net.bn(net.op("Add", y, x), C), shape=["N", C, 5, 5])
    assert fold(net.build()).count("BatchNormalization") == 2


@pytest.mark.parametrize("channels", [1, C])
def test_a_bn_of_one_channel_stays_one_operator(channels):
    """Of two in front of a sum one goes, and the other takes in what it left."""
    net = Net()
    x = net.input(1, channels, 6, 6)
    total = net.op("Add", *(net.bn(net.op(kind, x), channels) for kind in ("Sigmoid", "Tanh")))
    folded = fold(net.build(net.op("Conv", total, net.draw(2, channels, 3, 3), net.draw(2))))
    assert (folded.count("BatchNormalization"), folded.count("Mul", "Add")) == (1, 1)
