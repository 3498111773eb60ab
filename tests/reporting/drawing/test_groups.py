"""Which operators become one box."""

from __future__ import annotations

import re

from command_line import SAMPLES
from onnx_nets import Net

import bnfold
from bnfold.reporting.drawing.groups import Grouping, group
from bnfold.reporting.drawing.view import View, plain_view


def grouped(view: View) -> Grouping:
    """The grouping, after a look at what holds for every one."""
    found = group(view)
    assert len(found.member) == len(view.nodes)
    assert all(item.parent is None or item.parent < number for number, item in enumerate(found.groups))
    inside = [item.parent for item in found.groups] + list(found.member)
    for number in range(len(found.groups)):
        assert inside.count(number) >= 2, "a box in which there is one thing alone"
    return found


def chain(*kinds: str) -> View:
    net = Net()
    x = net.start()
    for number, kind in enumerate(kinds):
        x = net.act(f"op{number}", x, kind)
    return plain_view(bnfold.load(net.build(x)).graph)


def test_paths_in_names() -> None:
    view = plain_view(bnfold.load(SAMPLES / "digits_repvgg.onnx").graph)
    found = grouped(view)
    assert {"0", "1"} <= {item.label for item in found.groups}
    (number,) = (at for at, node in enumerate(view.nodes) if node.key == "/1/branches.0/branches.0.0/Conv")
    path = []
    at = found.member[number]
    while at is not None:
        path.append(found.groups[at].label)
        at = found.groups[at].parent
    assert path[-1] == "1"


def test_small_graphs_stay_as_they_are() -> None:
    assert grouped(chain("Relu", "Neg", "Abs")).groups == ()


def test_repeated_blocks() -> None:
    found = grouped(chain(*["Exp", "Neg", "Abs"] * 10, "Tanh", "Relu"))
    outer = [item.label for item in found.groups if item.parent is None]
    assert outer == ["10 × Exp → Neg → Abs"]
    assert sum(bool(re.fullmatch(r"block \d+", item.label)) for item in found.groups) == 10


def test_chains() -> None:
    kinds = ["Exp", "Neg", "Abs", "Tanh", "Relu", "Sigmoid"]
    irregular = [kinds[number * number % 6 if number % 3 else number % 5] for number in range(29)]
    view = chain(*irregular, "Erf", "Sin", "Cos", "Sqrt")
    found = grouped(view)
    assert len({at for at in found.member if at is not None}) >= 1
    visible = {at if at is not None else -1 - number for number, at in enumerate(found.member)}
    assert len(visible) < len(view.nodes)


def test_many_operators() -> None:
    view = chain(*["Exp", "Neg", "Abs", "Tanh"] * 500)
    top = [item for item in grouped(view).groups if item.parent is None]
    assert [item.label for item in top] == ["500 × Exp → Neg → Abs → Tanh"]
