"""What is drawn of a model: nodes, edges, states, links, and whom a refusal names."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import SAMPLES
from onnx import TensorProto, helper
from onnx_models import model as onnx_model
from onnx_models import value
from onnx_nets import Net

import bnfold
from bnfold.reporting.drawing.selection import named
from bnfold.reporting.drawing.view import Picture, View, around, picture


def drawn(source: object) -> Picture:
    report = bnfold.analyze(source, stats=True)  # type: ignore[arg-type]
    assert report.pair is not None
    return picture(report.pair, report)


def states(view: View) -> dict[str, str]:
    return {node.key: node.state for node in view.nodes if node.state}


def test_a_fold_backward() -> None:
    net = Net()
    found = drawn(net.build(net.block(1, net.start(), 3, 8)))
    assert states(found.before) == {"conv_1": "took it in", "bn_1": "folded"}
    assert states(found.after) == {"conv_1": "took it in"}
    assert found.links["bn_1"] == found.links["conv_1"] == ("conv_1",)
    bn = found.before.by_key()["bn_1"]
    assert bn.placement == "before activation"
    assert bn.fate == "bn_1 (BatchNormalization): folded backward into conv_1"
    assert bn.spread_bits is not None
    assert bn.shape == "float32 1×8×6×6"


def test_a_fold_through_something() -> None:
    found = drawn(SAMPLES / "digits_cnn_post.onnx")
    before = states(found.before)
    assert before["/5/BatchNormalization"] == "folded"
    assert before["/6/AveragePool"] == "moved through"
    assert before["/7/Conv"] == "took it in"
    assert "/6/AveragePool" in found.after.by_key()
    assert found.links["/5/BatchNormalization"] == ("/7/Conv",)


def test_merged_branches_are_all_linked_to_the_survivor() -> None:
    found = drawn(SAMPLES / "digits_repvgg.onnx")
    there = found.after.by_key()
    gone = [node for node in found.before.nodes if node.kind == "operator" and node.key not in there]
    assert len(gone) == 37 - 11
    assert {node.state for node in gone} == {"folded", "not needed"}  # the sums themselves are what is not needed
    for node in gone:
        assert all(key in there for key in found.links[node.key])
    assert any(found.links[node.key] for node in gone)


def test_what_stays_and_who_stands_in_its_way() -> None:
    net = Net()
    x = net.act("softmax", net.conv("conv", net.start(), 3, 8), "Softmax", axis=1)
    found = drawn(net.build(net.conv("padded", net.norm("bn", x, 8), 8, 8, pads=[1, 1, 1, 1])))
    nodes = found.before.by_key()
    assert nodes["bn"].state == "stays"
    assert "stays. Backward: " in nodes["bn"].fate
    assert nodes["softmax"].blocks == nodes["padded"].blocks == ("bn",)
    assert nodes["conv"].blocks == ()


def test_the_operator_that_refuses_is_told_from_its_namesakes() -> None:
    """Two activations of one name, of which the farther one refuses: the nearer passes everything."""
    net = Net()
    x = net.act("act", net.conv("conv", net.start(), 3, 4), "Softmax", axis=1)
    x = net.act("act", x, "Identity")
    x = net.act("same", net.norm("bn", x, 4), "Softmax", axis=1)
    nodes = {node.key: node for node in drawn(net.build(x)).before.nodes}
    assert {node.type for node in nodes.values() if node.blocks == ("bn",)} == {"Softmax"}
    assert sorted(node.label for node in nodes.values() if node.blocks) == ["act", "same"]


def test_the_operator_whose_output_is_seen_stands_in_the_way() -> None:
    net = Net()
    x = net.conv("conv", net.start(), 3, 4)
    y = net.act("after", net.norm("bn", x, 4), "Softmax", axis=1)
    z = net.act("other", x, "Tanh")
    nodes = {node.key: node for node in drawn(net.build(net.op("Add", y, z, name="sum"))).before.nodes}
    assert {key for key, node in nodes.items() if node.blocks} == {"conv", "after"}


def test_edges_inputs_and_outputs() -> None:
    net = Net()
    found = drawn(net.build(net.block(1, net.start(), 3, 8))).before
    pairs = [(edge.source, edge.target, edge.slot) for edge in found.edges]
    (out,) = (node.key for node in found.nodes if node.kind == "output")
    assert pairs == [("input x", "conv_1", 0), ("conv_1", "bn_1", 0), ("bn_1", "relu_1", 0), ("relu_1", out, 0)]


def test_subgraphs_read_what_stands_outside() -> None:
    def body(name: str) -> object:
        node = helper.make_node(name, ["doubled"], [f"out_{name}"], name=f"inner_{name}")
        return helper.make_graph([node], name, [], [value(f"out_{name}", [2])])

    nodes = [
        helper.make_node("Add", ["x", "x"], ["doubled"], name="double"),
        helper.make_node("If", ["flag"], ["y"], name="choice", then_branch=body("Relu"), else_branch=body("Neg")),
    ]
    source = onnx_model(nodes, [value("x", [2]), value("flag", [], TensorProto.BOOL)], [value("y", [2])])
    found = drawn(source).before
    scopes = {node.key: node.scope for node in found.nodes if node.scope}
    assert scopes == {
        "choice/then_branch/inner_Relu": "choice/then_branch", "choice/else_branch/inner_Neg": "choice/else_branch"
    }  # fmt: skip
    pairs = {(edge.source, edge.target) for edge in found.edges}
    for key in scopes:
        assert {("double", key), (key, "choice")} <= pairs


class TestParts:
    @pytest.fixture(scope="class")
    def view(self) -> View:
        net = Net()
        return drawn(net.build(net.block(2, net.block(1, net.start(), 3, 8), 8, 8))).before

    @pytest.mark.parametrize(
        ("depth", "kept"),
        [(0, ["bn_2"]), (1, ["conv_2", "bn_2", "relu_2"]), (3, ["bn_1", "relu_1", "conv_2", "bn_2", "relu_2"])],
    )
    def test_depth(self, view: View, depth: int, kept: list[str]) -> None:
        part = around(view, ["bn_2"], depth)
        assert [node.key for node in part.nodes if node.kind == "operator"] == kept
        inside = {node.key for node in part.nodes}
        assert all(edge.source in inside and edge.target in inside for edge in part.edges)

    def test_a_sibling_is_not_near(self) -> None:
        net = Net()
        x = net.start()
        sum_ = net.op("Add", net.act("left", x), net.act("right", x), name="sum")
        view = drawn(net.build(sum_)).before
        assert "right" not in around(view, ["left"], 5).by_key()

    def test_by_tensor_and_unknown(self, view: View) -> None:
        (tensor,) = view.by_key()["bn_1"].outputs
        assert named(view, tensor, "m") == ["bn_1"]
        with pytest.raises(bnfold.UsageError, match=r"^m: there is no .* 'bn_3'; did you mean 'bn_[12]'\?$"):
            named(view, "bn_3", "m")


def test_reports_travel_without_their_graphs(tmp_path: Path) -> None:
    import pickle

    report = bnfold.analyze(SAMPLES / "digits_cnn.onnx")
    again = pickle.loads(pickle.dumps(report))
    assert again.pair is None
    assert again == report
