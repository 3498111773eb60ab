"""Pictures that stand by themselves: where boxes are put, and what is written into them."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import hostile
import onnx
import pytest
from command_line import SAMPLES, bnfold
from onnx_nets import Net

import bnfold as package
from bnfold.reporting.drawing.layers import HEIGHT, WIDTH, lay_out
from bnfold.reporting.drawing.view import View, plain_view

REPVGG = SAMPLES / "digits_repvgg.onnx"
SPACE = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", ["digits_repvgg", "digits_cnn"])
def test_no_box_lies_on_another_and_edges_run_down(name: str) -> None:
    view = plain_view(package.load(SAMPLES / f"{name}.onnx").graph)
    found = lay_out(view)
    spots = list(found.centres.values())
    assert len(spots) == len(view.nodes)
    for number, (x, y) in enumerate(spots):
        assert WIDTH / 2 <= x + 0.1 <= found.width + 0.2 - WIDTH / 2 + 0.1
        assert HEIGHT / 2 <= y <= found.height - HEIGHT / 2
        for other_x, other_y in spots[:number]:
            assert abs(x - other_x) >= WIDTH or abs(y - other_y) >= HEIGHT
    for path in found.paths:
        heights = [y for _, y in path]
        assert heights == sorted(heights)


def test_nothing_to_draw() -> None:
    found = lay_out(View("", (), ()))
    assert (found.width, found.height, list(found.paths)) == (0, 0, [])


def test_before_beside_after(tmp_path: Path) -> None:
    out = tmp_path / "a.svg"
    outcome = bnfold("graph", REPVGG, "--around", "/1/Add_1", "--depth", "3", "--compare", "-o", out)
    assert (outcome.code, outcome.err) == (0, "")
    root = ElementTree.parse(out).getroot()
    words = [element.text for element in root.iter(f"{SPACE}text")]
    assert words.index("before") < words.index("BatchNormalization") < words.index("after")
    assert "BatchNormalization" not in words[words.index("after") :]
    assert {"folded", "took it in", "finding"} <= set(words)
    first = out.read_bytes()
    bnfold("graph", REPVGG, "--around", "/1/Add_1", "--depth", "3", "--compare", "-o", out)
    assert out.read_bytes() == first


def test_the_picture_of_the_readme_is_what_its_command_makes(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    text = (root / "README.md").read_text(encoding="utf-8")
    command = next(line for line in text.splitlines() if line.startswith("bnfold graph ") and "--compare" in line)
    _, _, model, *options, flag, target = command.split()
    assert flag == "-o"
    assert f"]({target})" in text
    assert bnfold("graph", root / model, *options, "-o", tmp_path / "a.svg").code == 0
    assert (tmp_path / "a.svg").read_text(encoding="utf-8") == (root / target).read_text(encoding="utf-8")


def test_strange_names(tmp_path: Path) -> None:
    onnx.save(hostile.model(), tmp_path / "m.onnx")
    assert bnfold("graph", tmp_path / "m.onnx", "--compare", "-o", tmp_path / "a.svg").code == 0
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    assert {element.tag.removeprefix(SPACE) for element in root.iter()} == {"svg", "rect", "text", "g", "path", "title"}


def test_too_much_for_one_picture(tmp_path: Path) -> None:
    net = Net()
    x = net.start()
    for number in range(220):
        x = net.act(f"a{number}", x)
    onnx.save(net.build(x), tmp_path / "m.onnx")
    outcome = bnfold("graph", tmp_path / "m.onnx", "--compare", "-o", tmp_path / "a.svg")
    assert outcome.code == 2
    assert outcome.err == "bnfold: 222 operators are too many for one picture; say which with --around NAME\n"
    assert bnfold("graph", REPVGG, "--compare", "-o", tmp_path / "a.dot").code == 2
