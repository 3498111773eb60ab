"""The files that ``bnfold graph`` writes, read again by those who know the formats."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import hostile
import networkx
import onnx
import pytest
from browser import missing
from command_line import SAMPLES, bnfold
from onnx import TensorProto, helper
from onnx_models import model as onnx_model
from onnx_models import value
from onnx_nets import Net

from bnfold.reporting.text import clean

SVG = "{http://www.w3.org/2000/svg}"
PARTS = ("svg", "g", "title", "polygon", "path", "ellipse", "text", "polyline", "a")
CNN, REPVGG = SAMPLES / "digits_cnn.onnx", SAMPLES / "digits_repvgg.onnx"


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("strange") / "strange.onnx"
    onnx.save(hostile.model(), path)
    return path


def written(tmp_path: Path, name: str, *arguments: str | Path) -> str:
    outcome = bnfold("graph", *arguments, "-o", tmp_path / name)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    return (tmp_path / name).read_text(encoding="utf-8")


def operators(graph: Any) -> dict[str, dict[str, Any]]:
    return {key: data for key, data in graph.nodes(data=True) if data["kind"] == "operator"}


class TestFormats:
    def test_node_link(self, tmp_path: Path) -> None:
        data = json.loads(written(tmp_path, "a.json", CNN))
        graph = networkx.node_link_graph(data, edges="edges")
        found = operators(graph)
        assert set(found) == {node.name for node in onnx.load(CNN).graph.node}
        bn = found["/1/BatchNormalization"]
        assert (bn["state"], bn["placement"]) == ("folded", "before activation")
        assert bn["fate"] == "/1/BatchNormalization (BatchNormalization): folded backward into /0/Conv"
        assert found["/0/Conv"]["findings"] == "BN201"
        assert graph.has_edge("/0/Conv", "/1/BatchNormalization")
        assert networkx.is_directed_acyclic_graph(graph)

    def test_after(self, tmp_path: Path) -> None:
        data = json.loads(written(tmp_path, "a.json", CNN, "--after"))
        found = operators(networkx.node_link_graph(data, edges="edges"))
        assert len(found) == 10
        assert not any(node["type"] == "BatchNormalization" for node in found.values())

    def test_graphml(self, tmp_path: Path, strange: Path) -> None:
        for source, count in ((CNN, 13), (strange, 3 * len(hostile.NAMES))):
            written(tmp_path, "a.graphml", source)
            graph = networkx.read_graphml(tmp_path / "a.graphml")
            assert len(operators(graph)) == count

    def test_graphml_and_node_link_say_the_same(self, tmp_path: Path, strange: Path) -> None:
        """Names, values and types; what XML cannot hold is written as an escape."""
        for source in (REPVGG, strange):
            data = json.loads(written(tmp_path, "a.json", source))
            written(tmp_path, "a.graphml", source)
            graph = networkx.read_graphml(tmp_path / "a.graphml")
            plain = [
                {key: clean(text) if isinstance(text, str) else text for key, text in node.items()}
                for node in data["nodes"]
            ]
            assert [{"id": key, **known} for key, known in graph.nodes(data=True)] == [
                dict(sorted(node.items(), key=lambda item: item[0] != "id")) for node in plain
            ]
            assert {
                type(known["spread_bits_after"])
                for known in dict(graph.nodes(data=True)).values()
                if "spread_bits_after" in known
            } <= {float}
            found = sorted(
                (a, b, known["tensor"], known["output"], known.get("slot")) for a, b, known in graph.edges(data=True)
            )
            assert found == sorted(
                (clean(edge["source"]), clean(edge["target"]), clean(edge["tensor"]), edge["output"], edge.get("slot"))
                for edge in data["edges"]
            )

    def test_dot_is_escaped(self, tmp_path: Path, strange: Path) -> None:
        text = written(tmp_path, "a.dot", strange)
        assert '"quote\\" -> \\"b\\\\\\" [label=<b>] \\\\"' in text
        assert "\x07" not in text
        assert "\x1b" not in text
        assert text.count("\n") == text.replace("\r", "").count("\n") == len(text.splitlines())

    def test_part_of_it(self, tmp_path: Path) -> None:
        data = json.loads(written(tmp_path, "a.json", CNN, "--around", "/4/BatchNormalization", "--depth", "1"))
        assert [node["id"] for node in data["nodes"]] == ["/3/Conv", "/4/BatchNormalization", "/5/Relu"]

    def test_two_runs_write_the_same_bytes(self, tmp_path: Path) -> None:
        for name in ("a.dot", "a.json", "a.graphml"):
            assert written(tmp_path, name, REPVGG) == written(tmp_path, name, REPVGG)


class TestGraphviz:
    @pytest.fixture
    def dot(self) -> str:
        program = shutil.which("dot")
        if program is None:
            missing("Graphviz", "apt-get install -y graphviz")
        return str(program)

    @pytest.mark.parametrize("options", [(), ("--after",), ("--around", hostile.DOT)])
    def test_graphviz_reads_every_name(self, tmp_path: Path, strange: Path, dot: str, options: tuple[str, ...]) -> None:
        """The nodes of the file, as Graphviz has read them, are those of the node-link file."""
        written(tmp_path, "a.dot", strange, *options)
        done = subprocess.run([dot, "-Tjson", tmp_path / "a.dot"], capture_output=True, check=True)
        assert done.stderr == b""
        found = json.loads(done.stdout)
        data = json.loads(written(tmp_path, "a.json", strange, *options))
        unescaped = [node["name"].replace("\\\\", "\\") for node in found["objects"]]
        assert unescaped == [clean(node["id"]).replace("\\n", "\n").replace("\n", "\\n") for node in data["nodes"]]
        places = {node["_gvid"]: number for number, node in enumerate(found["objects"])}
        numbers = {node["id"]: number for number, node in enumerate(data["nodes"])}
        assert sorted((places[edge["tail"]], places[edge["head"]]) for edge in found["edges"]) == sorted(
            (numbers[edge["source"]], numbers[edge["target"]]) for edge in data["edges"]
        )

    def test_graphviz_shows_names_as_text(self, tmp_path: Path, strange: Path, dot: str) -> None:
        root = ElementTree.fromstring(written(tmp_path, "a.svg", strange, "--around", hostile.HTML))
        assert hostile.HTML in {"".join(element.itertext()) for element in root.iter(f"{SVG}text")}
        assert {element.tag for element in root.iter()} <= {f"{SVG}{name}" for name in PARTS}

    def test_graphviz_draws_subgraphs_and_pictures(self, tmp_path: Path, dot: str) -> None:
        body = [helper.make_graph([helper.make_node(kind, ["x"], [kind])], kind, [], [value(kind, [2])])
                for kind in ("Relu", "Neg")]  # fmt: skip
        choice = helper.make_node("If", ["flag"], ["y"], name="choice", then_branch=body[0], else_branch=body[1])
        flag = value("flag", [], TensorProto.BOOL)
        onnx.save(onnx_model([choice], [value("x", [2]), flag], [value("y", [2])]), tmp_path / "m.onnx")
        written(tmp_path, "a.dot", tmp_path / "m.onnx")
        done = subprocess.run([dot, "-Tjson", tmp_path / "a.dot"], capture_output=True, check=True)
        clusters = [one["label"] for one in json.loads(done.stdout)["objects"] if one["name"].startswith("cluster")]
        assert sorted(clusters) == ["choice/else_branch", "choice/then_branch"]
        assert bnfold("graph", CNN, "-o", tmp_path / "a.png").code == 0
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")

    def test_it_is_not_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        outcome = bnfold("graph", CNN, "-o", tmp_path / "a.svg")
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err == (
            "bnfold: a .svg file is drawn by Graphviz, which is not installed (there is no program 'dot'); "
            "write .dot, .graphml or .json instead\n"
        )
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.skipif(os.name != "posix", reason="a script stands in for Graphviz")
    @pytest.mark.parametrize(("code", "suffix"), [(0, "svg"), (0, "png"), (1, "svg")])
    def test_it_gets_the_graph(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, suffix: str) -> None:
        program = tmp_path / "dot"
        program.write_text(
            f"#!{sys.executable}\nimport sys\ntext = sys.stdin.read()\n"
            "sys.stderr.write('syntax\\nerror')\nsys.stdout.write(' '.join(sys.argv[1:]) + text[:7])\n"
            f"sys.exit({code})\n",
            encoding="utf-8",
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        outcome = bnfold("graph", CNN, "-o", tmp_path / f"a.{suffix}")
        if code:
            assert (outcome.code, outcome.err) == (2, "bnfold: Graphviz could not draw the graph: syntax error\n")
            assert not (tmp_path / f"a.{suffix}").exists()
        else:
            assert outcome.code == 0
            assert (tmp_path / f"a.{suffix}").read_text() == f"-T{suffix}digraph"


class TestUsage:
    def test_a_suffix_that_stands_for_nothing(self, tmp_path: Path) -> None:
        outcome = bnfold("graph", CNN, "-o", tmp_path / "a.txt")
        assert outcome.code == 2
        assert "has none of the suffixes .dot, .gv, .graphml, .json, .svg, .png: say what to write" in outcome.err
        assert bnfold("graph", CNN, "-o", tmp_path / "a.txt", "--format", "dot").code == 0

    def test_an_unknown_name(self, tmp_path: Path) -> None:
        outcome = bnfold("graph", CNN, "-o", tmp_path / "a.dot", "--around", "nowhere")
        assert (outcome.code, outcome.err) == (2, f"bnfold: {CNN}: there is no operator or tensor 'nowhere'\n")

    def test_no_such_model(self, tmp_path: Path) -> None:
        outcome = bnfold("graph", tmp_path / "no.onnx", "-o", tmp_path / "a.dot")
        assert outcome.code == 2
        assert not (tmp_path / "a.dot").exists()

    def test_an_output_that_cannot_be_written(self, tmp_path: Path) -> None:
        assert bnfold("graph", CNN, "-o", tmp_path / "no" / "a.dot").code == 2


class TestModelExplorer:
    @pytest.fixture(scope="class")
    def files(self, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("explorer")
        outcome = bnfold("graph", REPVGG, "-o", folder / "m.json", "--format", "model-explorer")
        assert (outcome.code, outcome.err) == (0, "")
        return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.iterdir()}

    def test_the_files(self, files: dict[str, Any]) -> None:
        assert sorted(files) == [
            "m.after.json", "m.findings.json", "m.json", "m.navigation.json", "m.placements.json", "m.spread.json",
            "m.steps.json",
        ]  # fmt: skip

    def test_the_graph(self, files: dict[str, Any]) -> None:
        (graph,) = files["m.json"]["graphs"]
        nodes = {node["id"]: node for node in graph["nodes"]}
        assert len(nodes) == len(graph["nodes"]) == 37 + 2
        for node in nodes.values():
            assert all(edge["sourceNodeId"] in nodes for edge in node["incomingEdges"])
            assert all(isinstance(item["value"], str) for item in node["attrs"])
        assert nodes["/0/branches.0/branches.0.1/BatchNormalization"]["namespace"] == "0/branches.0/branches.0.1"

    def test_overlays_lie_on_the_original_file(self, files: dict[str, Any]) -> None:
        nodes = onnx.load(REPVGG).graph.node
        for part in ("steps", "placements", "findings", "spread"):
            results = files[f"m.{part}.json"]["results"]
            found = [node for node in nodes if node.name in results]
            assert set(results) == {name for node in found for name in (node.name, node.output[0])}
            assert all(results[node.name] == results[node.output[0]] for node in found)
        batchnorms = [node.name for node in nodes if node.op_type == "BatchNormalization"]
        assert set(batchnorms) == set(files["m.placements.json"]["results"]) & {node.name for node in nodes}

    def test_a_tensor_named_like_another_operator_lays_nothing_on_it(self, tmp_path: Path) -> None:
        net = Net()
        x = net.norm("first", net.conv("conv", net.start(), 3, 4), 4)
        model = net.build(net.act("second", x, "Softmax", axis=1))
        renamed = {x: "second"}
        for node in model.graph.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]
        onnx.save(model, tmp_path / "m.onnx")
        assert bnfold("graph", tmp_path / "m.onnx", "-o", tmp_path / "m.json", "--format", "model-explorer").code == 0
        results = json.loads((tmp_path / "m.placements.json").read_text())["results"]
        assert list(results) == ["first"]

    def test_a_node_is_in_one_entry_of_the_navigation_alone(self, files: dict[str, Any]) -> None:
        entries = files["m.navigation.json"]["mappingEntries"]
        for side, name in (("left", "m.json"), ("right", "m.after.json")):
            ids = [key for entry in entries for key in entry[f"{side}NodeIds"]]
            assert len(ids) == len(set(ids))
            assert set(ids) <= {node["id"] for node in files[name]["graphs"][0]["nodes"]}
        assert all(entry["leftNodeIds"] and entry["rightNodeIds"] for entry in entries)

    def test_it_writes_everything_or_complains(self, tmp_path: Path) -> None:
        outcome = bnfold("graph", CNN, "-o", tmp_path / "a.json", "--format", "model-explorer", "--after")
        assert outcome.code == 2
        assert "writes the whole model" in outcome.err


def test_the_model_itself_is_not_written_over(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    shutil.copy(SAMPLES / "digits_cnn.onnx", model)
    (tmp_path / "link.json").symlink_to("model.onnx")
    for out in (model, tmp_path / "link.json"):
        outcome = bnfold("graph", model, "-o", out, "--format", "json")
        assert (outcome.code, outcome.err) == (2, f"bnfold: {out} is the input itself; give the output another name\n")
    assert model.read_bytes() == (SAMPLES / "digits_cnn.onnx").read_bytes()
