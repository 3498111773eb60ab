"""Results in a notebook."""

from __future__ import annotations

import pickle
import subprocess
import sys
from html.parser import HTMLParser
from math import inf
from pathlib import Path

import hostile
import pytest
from command_line import SAMPLES
from experiment_samples import experiment
from onnx_nets import Net

import bnfold
from bnfold import display
from bnfold.quantization import Int8Output, Int8Report, Int8Row, LayerLoss
from bnfold.scanning import ScanStore

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


def test_an_experiment() -> None:
    text = experiment()._repr_html_()
    assert text is not None
    found = tags(text)
    assert found.count("table") == 3
    assert found.count("svg") == 1
    for words in ("no clear difference in accuracy", "none − before", "is equivalent", "takes at least 6 seeds"):
        assert words in text


def test_int8() -> None:
    outputs = (Int8Output(name="y", snr_db=31.25, agreement=0.985), Int8Output(name="<b>", snr_db=inf, agreement=None))
    row = Int8Row(model="folded", weights="per tensor", outputs=outputs, size=2048, latency_ms=1.5)
    failed = Int8Row(model="folded", weights="per channel", error="it ended")
    loss = LayerLoss(layer="conv", snr_db={"folded": 20.0}, spread_bits={"folded": 3.0})
    report = Int8Report(rows=(row, failed), losses=(loss,), calibration=8, held_out=4, notes=("a note",))
    text = report._repr_html_()
    assert text is not None
    assert tags(text).count("tr") == 1 + 2 + 1 + 1 + 1 + 1
    for words in (
        "8 samples to calibrate",
        "31.2 dB",
        "98.5 %",
        ">equal<",
        "&lt;b&gt;",
        "it ended",
        "20.0 dB",
        "a note",
    ):
        assert words in text


@pytest.mark.slow
def test_a_scan(tmp_path: Path) -> None:
    store = ScanStore(tmp_path / "s.sqlite")
    assert [row.status for row in bnfold.scan([CNN], store=store, workers=1)] == ["findings"]
    text = store._repr_html_()
    store.close()
    assert text is not None
    assert "1 model" in text
    assert "digits_cnn.onnx" in text
    assert tags(text).count("table") == 2


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
