"""Pages of tables: ``scan``, ``equalize`` and ``experiment``."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import helpers
import hostile
import numpy as np
import onnx
import pytest
from browser import Visit, chromium
from command_line import SAMPLES, bnfold
from experiment_samples import arm, experiment
from level_nets import C, unlevel
from onnx_models import conv_bn
from onnx_nets import Net
from test_page import Page, written

from bnfold.experiment.results import ArmResult
from bnfold.reporting.page import render, scanned, sheets
from bnfold.reporting.page.picture import picture
from bnfold.reporting.text import visible
from bnfold.scanning import ScanStore


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with BN, one whose BN stays, one without, one of strange names, and one damaged with a strange name."""
    folder = tmp_path_factory.mktemp("models")
    onnx.save(conv_bn(), folder / "a.onnx")
    net = Net()
    x = net.norm("kept", net.act("softmax", net.start(), "Softmax", axis=1), 3)
    onnx.save(net.build(net.conv("padded", x, 3, 4, pads=[1, 1, 1, 1])), folder / "stays.onnx")
    net = Net()
    onnx.save(net.build(net.act("relu", net.conv("conv", net.start(), 3, 4, bias=True))), folder / "plain.onnx")
    onnx.save(hostile.model(), folder / "strange.onnx")
    (folder / "<img src=x onerror=alert(1)>.onnx").write_bytes(b"no model")
    return folder


def rows(page: Page) -> list[str]:
    """The rows of the first table, its head included."""
    start = next(at for at, (tag, attrs) in enumerate(page.tags) if attrs.get("data-grid") == "0")
    end = next(at for at, (tag, attrs) in enumerate(page.tags) if attrs.get("data-grid") == "1")
    return [tag for tag, _ in page.tags[start:end] if tag == "tr"]


@pytest.fixture(scope="module")
def scan(models: Path) -> Path:
    path = models.parent / f"{models.name}.html"
    store = models.parent / f"{models.name}.sqlite"
    written(path, "scan", models, "--store", store, "--fail-on", "never", "--workers", "2", code=1)
    return path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="fork servers are Linux's")
class TestScan:
    def test_every_model_with_its_findings(self, scan: Path) -> None:
        page = Page(scan.read_text(encoding="utf-8"))
        words = page.words
        assert words.index("4 of 5 models went well") < words.index("What needs attention") < words.index("Models")
        assert len(rows(page)) == 1 + 5
        for text in ("a.onnx", "plain.onnx", "strange.onnx", "1 failed", "BN110 info: ", "not an ONNX model"):
            assert text in words, text
        assert words.index("onerror=alert(1)>.onnx") < words.index("a.onnx")  # what went wrong is first
        assert "The rules behind the findings" in words

    def test_where_batchnorms_stand_and_which_stay(self, scan: Path) -> None:
        words = Page(scan.read_text(encoding="utf-8")).words
        row = words[words.index("stays.onnx") :]
        assert "1 after activation" in row
        assert "kept stays: softmax (Softmax)" in row
        assert "Softmax → BN" in row
        assert "3 channels, stays" in row
        assert "channels, folds into conv" in words[words.index("a.onnx") :]

    def test_of_many_batchnorms_only_those_that_stay_are_named(
        self, models: Path, scan: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with closing(ScanStore(models.parent / f"{models.name}.sqlite")) as store:
            every = str(sheets.of_scan(store).grids)
            monkeypatch.setattr(scanned, "_BATCHNORMS", 2)
            some = str(sheets.of_scan(store).grids)
        assert "3 channels, stays" in every
        assert "channels, " not in some
        assert "1 after activation" in some
        assert "kept stays: softmax" in some

    def test_counts_as_bars(self, scan: Path) -> None:
        (data,) = Page(scan.read_text(encoding="utf-8")).data
        assert [item["title"].split(" by ")[1] for item in data["bars"]] == [
            "status", "size of the file", "the time that they took"
        ]  # fmt: skip
        assert ["failed", 1] in data["bars"][0]["bars"]
        assert all(sum(count for _, count in item["bars"]) == 5 for item in data["bars"])

    def test_names_are_text(self, scan: Path) -> None:
        page = Page(scan.read_text(encoding="utf-8"))
        assert not any(tag == "img" for tag, _ in page.tags)
        assert len(page.text("script")) == 3
        assert not any(name.startswith("on") or name in ("src", "style") for _, attrs in page.tags for name in attrs)

    def test_no_model_is_replaced(self, models: Path) -> None:
        outcome = bnfold("scan", models, "--report", models / "a.onnx")
        assert outcome.code == 2
        assert "a page does not get the name of a model" in outcome.err
        assert onnx.load(models / "a.onnx").graph.node

    @pytest.mark.browser
    def test_sorting_and_filters_in_a_browser(self, scan: Path) -> None:
        with chromium() as browser:
            visit = Visit(browser, scan)
            grid = visit.page.locator(".grid").first
            grid.get_by_label("Filter", exact=True).fill("plain")
            assert grid.locator("tbody tr:visible").count() == 1
            assert "m0.t0.q=plain" in visit.page.url
            grid.locator("tbody summary:visible").click()
            assert "BN110" in grid.inner_text()
            grid.get_by_label("Filter", exact=True).fill("")
            grid.get_by_label("status").select_option("failed")
            assert grid.locator("tbody tr:visible").count() == 1
            grid.get_by_label("status").select_option("")
            for order in ("ascending", "descending"):
                grid.get_by_role("button", name="size").click()
                sizes = [float(td.get_attribute("data-value")) for td in grid.locator("tbody td:nth-child(3)").all()]
                assert sizes == sorted(sizes, reverse=order == "descending")
                assert grid.locator("th").nth(2).get_attribute("aria-sort") == order
            assert visit.page.locator(".bars-plot figure").count() == 3
            visit.check()


class TestEqualize:
    @pytest.fixture(scope="class")
    def page(self, tmp_path_factory: pytest.TempPathFactory) -> Page:
        folder = tmp_path_factory.mktemp("equalize")
        net = helpers.Net(seed=1)
        x = net.op("Conv", net.input("N", C, 4, 4, name="x"), unlevel(net, C, C, 3, 3), name=hostile.SCRIPT)
        x = net.op("Relu", net.exact_bn(x, [1.0, 16.0, 0.5, 4.0], np.ones(C), name="bn"), name="relu")
        x = net.op("Sigmoid", net.op("Conv", x, net.draw(2, C, 1, 1), name="second"), name="sigmoid")
        onnx.save(net.build(x), folder / "m.onnx")
        return written(folder / "a.html", "equalize", folder / "m.onnx", "-o", folder / "o.onnx")

    def test_what_was_scaled_and_the_graphs(self, page: Page) -> None:
        words = page.words
        order = [
            words.index(text) for text in ("2 tensors scaled", "Is it the same?", "Weight ranges", "keeps its scale")
        ]
        assert order == sorted(order)
        assert "sigmoid" in words[order[-1] :]
        (data,) = page.data
        assert [len([n for n in data[side]["nodes"] if n[3] == "operator"]) for side in ("before", "after")] == [5, 4]
        assert data["names"] == ["bn"]

    def test_ranges_are_more_level_after(self, page: Page) -> None:
        bits = [float(attrs["data-value"] or 0) for tag, attrs in page.tags if tag == "td" and "data-value" in attrs]
        assert bits[1] < bits[0]

    def test_names_are_text(self, page: Page) -> None:
        assert not any(tag == "img" for tag, _ in page.tags)
        assert len(page.text("script")) == 3

    def test_a_dry_run_has_a_page_too(self, tmp_path: Path) -> None:
        words = written(tmp_path / "a.html", "equalize", SAMPLES / "digits_cnn.onnx", "--dry-run").words
        assert "not verified" in words
        assert "nothing was written" not in words

    def test_the_data_are_not_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "d.npz").write_bytes(b"")
        outcome = bnfold("equalize", SAMPLES / "digits_cnn.onnx", "--dry-run", "--int8", tmp_path / "d.npz", "--report",
                         tmp_path / "d.npz")  # fmt: skip
        assert outcome.code == 2
        assert "is a file of this call" in outcome.err


class TestExperiment:
    @staticmethod
    def page(*arms: ArmResult) -> Page:
        made = sheets.of_experiment(["m.keras"], experiment(*arms))
        return Page(render.page("experiment", [made], {}).decode())

    def test_verdict_tables_and_curves(self) -> None:
        page = self.page()
        words = page.words
        order = [
            words.index(text) for text in ("no clear difference in accuracy", "with 3 seeds p can", "Arms", "none −")
        ]
        assert order == sorted(order)
        for text in ("seed 0: 0.7000, best epoch 3", "seed 1: diverged", "3 of 6", "-0.2167", "is equivalent", "1,234"):
            assert text in words, text
        assert {"training", "validation", "none, rate 0.01, 1 diverged"} <= set(page.text("text"))
        paths = [attrs for tag, attrs in page.tags if tag == "path" and attrs.get("stroke") == "#0072B2".lower()]
        assert len(paths) >= 2 * 4  # in each panel three seeds and their mean

    def test_the_policy_allows_the_curves(self) -> None:
        page = self.page()
        assert not any(name in ("style", "src") or name.startswith("on") for _, attrs in page.tags for name in attrs)
        assert [tag for tag, _ in page.tags].count("style") == 1
        ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
        assert len(ids) == len(set(ids))
        used = [attrs["href"] for tag, attrs in page.tags if tag == "use"]
        assert used
        assert {str(one)[1:] for one in used} <= set(ids)

    @pytest.mark.parametrize("name", [*hostile.NAMES, "$x^{", "_hidden"])
    def test_names_are_text(self, name: str) -> None:
        page = self.page(arm(name, 0.7, 0.6, 0.5), arm("before", 0.9, 0.8, 0.85))
        assert not any(tag == "img" for tag, _ in page.tags)
        assert len(page.text("script")) == 3
        assert any(text.strip().startswith(visible(name)[:10]) for text in page.text("text"))

    def test_nothing_unknown_is_taken_over(self) -> None:
        found = picture(
            b'<svg xmlns="http://www.w3.org/2000/svg" onload="x()"><script>x()</script><g onclick="x()"><a href="http://x">'
            b'</a><path d="M0 0" style="fill: url(http://x); stroke: #000000"/><text>a&lt;b</text></g></svg>', "curves"
        )  # fmt: skip
        assert found == (
            '<svg role="img" aria-label="curves" stroke-linejoin="round"><g><path d="M0 0" stroke="currentColor" />'
            "<text>a&lt;b</text></g></svg>"
        )

    def test_the_store_is_not_replaced(self, tmp_path: Path) -> None:
        outcome = bnfold("experiment", "m.keras", "--data", "d.py:load", "--epochs", "1", "--store", tmp_path / "s",
                         "--report", tmp_path / "s")  # fmt: skip
        assert outcome.code == 2
        assert "is a file of this call" in outcome.err
