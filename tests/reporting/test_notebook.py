"""Results in a notebook."""

from __future__ import annotations

import pickle
import subprocess
import sys
from html.parser import HTMLParser

import hostile
import pytest
from command_line import SAMPLES
from onnx_nets import Net

import bnfold
from bnfold import display

CNN, MOBILENET = SAMPLES / "digits_cnn.onnx", SAMPLES / "mobilenet_v2_relu.onnx"


def tags(text: str) -> list[str]:
    """Every element, in order; that the fragment is balanced is looked at on the way."""
    found: list[str] = []
    open_: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            found.append(tag)
            open_.append(tag)

        def handle_startendtag(self, tag: str, attrs: object) -> None:
            found.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_.pop() == tag

    Reader().feed(text)
    assert open_ == []
    return found


def test_a_report() -> None:
    text = bnfold.analyze(CNN)._repr_html_()
    found = tags(text)
    assert found.count("tr") == 1 + 3 + 1 + 3
    assert found.count("svg") == 1
    assert "before activation" in text


def test_a_fold_with_its_verdict() -> None:
    text = bnfold.fold(CNN, verify=True)._repr_html_()
    assert tags(text).count("svg") == 1
    assert "folded" in text
    assert "within rounding" in text


def test_a_verification() -> None:
    text = bnfold.verify(CNN, CNN)._repr_html_()
    assert "equal bit for bit" in text
    assert "table" in tags(text)


def test_a_repair() -> None:
    text = bnfold.fix(CNN)._repr_html_()
    assert "BN201" in text
    assert tags(text).count("tr") == 2


def test_equalised() -> None:
    text = bnfold.equalize(MOBILENET, verify=True)._repr_html_()
    assert "spread in bits" in text
    assert "EqualizeResult" in text
    assert "table" in tags(text)


def test_a_check_of_the_runtime() -> None:
    text = bnfold.check_runtime(CNN)._repr_html_()
    assert all(f">{level}</td>" in text for level in ("basic", "extended", "all"))
    assert tags(text).count("tr") == 1 + 3


def test_what_came_from_another_process_has_no_picture() -> None:
    again = pickle.loads(pickle.dumps(bnfold.analyze(CNN)))
    assert "svg" not in tags(again._repr_html_())


def test_many_rows_are_cut_and_so_are_crowds() -> None:
    net = Net()
    x = net.start()
    branches = [net.act(f"act{number}", x, "Tanh") for number in range(300)]
    crowd = net.norm("bn", net.op("Concat", *branches, axis=1), 900)
    report = bnfold.analyze(net.build(crowd))
    assert "svg" not in tags(report._repr_html_())
    net = Net()
    x = net.start()
    for number in range(25):
        x = net.block(number, x, 3, 3, pads=[1, 1, 1, 1])
    assert "and 5 more" in bnfold.fold(net.build(x))._repr_html_()


def test_strange_names_are_text() -> None:
    for result in (bnfold.analyze(hostile.model()), bnfold.fold(hostile.model())):
        assert not {"img", "script"} & set(tags(result._repr_html_()))


def test_without_a_renderer_the_repr_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    report = bnfold.analyze(CNN)
    monkeypatch.setattr(display, "_renderers", [])
    assert report._repr_html_() is None


def test_nothing_is_imported_before_a_notebook_asks() -> None:
    code = (
        "import sys, bnfold; report = bnfold.analyze(sys.argv[1]); name = 'bnfold.reporting.notebook'; "
        "print(name in sys.modules, end=' '); report._repr_html_(); print(name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(CNN)], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"
