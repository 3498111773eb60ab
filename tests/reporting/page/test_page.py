"""The page as a file: what it says, that it is the same every time, and that names in it are text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import onnx
import pytest
from command_line import SAMPLES, bnfold
from onnx_nets import usual
from verification_models import weight, with_weight

from bnfold.analysis import all_rules
from bnfold.reporting.page.markdown import to_html
from bnfold.reporting.text import visible

CNN, MLP, REPVGG = (SAMPLES / f"digits_{name}.onnx" for name in ("cnn", "mlp", "repvgg"))


class Page(HTMLParser):
    """An HTML file taken apart: text by element, attributes, and what is in its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, str]] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        self.inside.append((self._open, data))

    def text(self, tag: str) -> list[str]:
        return [data for name, data in self.inside if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(data for name, data in self.inside if name not in ("script", "style")).split())

    @property
    def data(self) -> Any:
        return json.loads(self.text("script")[0])


def written(path: Path, *arguments: str | Path, code: int = 0) -> Page:
    outcome = bnfold(*arguments, "--report", path)
    assert outcome.code == code, outcome
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def fold(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("fold")
    return written(folder / "a.html", "fold", REPVGG, "-o", folder / "o.onnx")


class TestContents:
    def test_fold_says_the_verdict_first(self, fold: Page) -> None:
        words = fold.words
        order = [words.index(text) for text in ("10 → 0 BN", "Is it the same?", "within rounding", "37 → 11 operators")]
        assert order == sorted(order)
        assert order[-1] < words.index("BatchNormalizations")
        assert "merged with its parallel branches into" in words
        assert "BN405" in words
        assert "The rules behind the findings" in words

    def test_data_of_the_graphs(self, fold: Page) -> None:
        (data,) = fold.data
        assert sum(node[3] == "operator" for node in data["before"]["nodes"]) == 37
        assert sum(node[3] == "operator" for node in data["after"]["nodes"]) == 11
        assert len(data["bns"]) == len(data["names"]) == len(data["profiles"]) == 10
        count = len(data["after"]["nodes"])
        assert all(0 <= one < count for links in data["links"].values() for one in links)

    def test_verify_of_models_that_differ(self, tmp_path: Path) -> None:
        proto = usual()
        name = proto.graph.initializer[0].name
        onnx.save(proto, tmp_path / "a.onnx")
        onnx.save(with_weight(proto, name, weight(proto, name) * np.float32(1.5)), tmp_path / "b.onnx")
        page = written(tmp_path / "v.html", "verify", tmp_path / "a.onnx", tmp_path / "b.onnx", code=1)
        assert "different" in page.words
        assert "First difference: tensor" in page.words

    def test_verify_of_one_model(self, tmp_path: Path) -> None:
        page = written(tmp_path / "v.html", "verify", MLP)
        assert "the runtime keeps the outputs" in page.words
        assert "optimisation level all" in page.words

    def test_fix(self, tmp_path: Path) -> None:
        page = written(tmp_path / "f.html", "fix", CNN, "-o", tmp_path / "o.onnx")
        assert "Repairs BN201" in page.words
        assert "1 repair" in page.words

    def test_settings_and_versions(self, tmp_path: Path) -> None:
        page = written(tmp_path / "a.html", "analyze", CNN, "--select", "BN2", "--fail-on", "never")
        assert f"models {CNN}" in page.words
        assert "select BN2" in page.words
        assert f"numpy {np.__version__}" in page.words

    def test_a_model_without_bn(self, tmp_path: Path) -> None:
        proto = onnx.helper.make_model(
            onnx.helper.make_graph(
                [onnx.helper.make_node("Relu", ["x"], ["y"])], "g",
                [onnx.helper.make_tensor_value_info("x", 1, [1])], [onnx.helper.make_tensor_value_info("y", 1, [1])],
            ),
            opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8,
        )  # fmt: skip
        onnx.save(proto, tmp_path / "m.onnx")
        page = written(tmp_path / "a.html", "analyze", tmp_path / "m.onnx")
        assert "none in this model" in page.words


class TestFile:
    @pytest.mark.parametrize("command", ["analyze", "verify", "fold"])
    def test_the_same_bytes_every_time(self, tmp_path: Path, command: str) -> None:
        arguments = [command, MLP, *(["-o", tmp_path / "o.onnx"] if command == "fold" else [])]
        written(tmp_path / "a.html", *arguments)
        first = (tmp_path / "a.html").read_bytes()
        written(tmp_path / "a.html", *arguments)
        assert (tmp_path / "a.html").read_bytes() == first

    def test_the_policy_allows_what_is_there_and_nothing_else(self, fold: Page) -> None:
        (policy,) = (
            attributes["content"]
            for tag, attributes in fold.tags
            if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
        )
        assert policy is not None
        *_, script = fold.text("script")
        (style,) = fold.text("style")
        for text in (script, style):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert not any(name.startswith("on") or name in ("src", "style") for _, attrs in fold.tags for name in attrs)
        assert all(attrs["href"].startswith("#") for _, attrs in fold.tags if attrs.get("href"))  # type: ignore[union-attr]

    def test_strange_names_are_text(self, tmp_path: Path) -> None:
        onnx.save(hostile.model(), tmp_path / "strange.onnx")
        page = written(tmp_path / "a.html", "analyze", tmp_path / "strange.onnx", "--fail-on", "never")
        assert not any(tag == "img" for tag, _ in page.tags)
        names = page.data[0]["names"]
        assert hostile.SCRIPT in names
        assert hostile.LONG in names
        assert len(page.text("script")) == 3

    def test_a_model_is_not_replaced_by_a_page(self, tmp_path: Path) -> None:
        model = tmp_path / "m.onnx"
        model.write_bytes(CNN.read_bytes())
        for arguments in (["analyze", model], ["fold", model, "-o", tmp_path / "o.onnx"], ["verify", CNN, model]):
            outcome = bnfold(*arguments, "--report", model)
            assert (outcome.code, outcome.out) == (2, "")
            assert "is a file of this call; give the report another name" in outcome.err
        assert model.read_bytes() == CNN.read_bytes()

    @pytest.mark.parametrize("command", ["analyze --int8", "fold --dry-run --int8", "fix -o o.onnx --inputs"])
    def test_data_are_not_replaced_by_a_page(self, tmp_path: Path, command: str) -> None:
        data = tmp_path / "d.npz"
        data.write_bytes(b"data")
        name, *options = command.split()
        outcome = bnfold(name, CNN, *options, data, "--report", data)
        assert outcome.code == 2
        assert "is a file of this call" in outcome.err
        assert data.read_bytes() == b"data"

    def test_a_page_that_cannot_be_written_ends_the_call_before_any_work(self, tmp_path: Path) -> None:
        outcome = bnfold("fold", CNN, "-o", tmp_path / "o.onnx", "--report", tmp_path / "no" / "a.html")
        assert outcome.code == 2
        assert not (tmp_path / "o.onnx").exists()

    @pytest.mark.parametrize(("arguments", "loaded"), [([], False), (["--report", "a.html"], True)])
    def test_nothing_is_imported_for_nothing(self, tmp_path: Path, arguments: list[str], loaded: bool) -> None:
        code = (
            "import sys; from bnfold import cli; cli.run(sys.argv[1:]); "
            "print([name for name in ('jinja2', 'networkx', 'bnfold.reporting.page') if name in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "analyze", str(CNN), "-q", *arguments],
            capture_output=True, text=True, cwd=tmp_path, check=True,
        )  # fmt: skip
        assert ("jinja2" in done.stdout.splitlines()[-1]) is loaded


class TestText:
    def test_what_turns_directions_is_written_out(self) -> None:
        assert visible("a\u202eb\x1b[0m\ud800") == "a\\u202eb\\x1b[0m\\ud800"
        assert visible(hostile.EMOJI) == hostile.EMOJI

    def test_markdown(self) -> None:
        assert to_html("a `b<c` **d**\ne") == "<p>a <code>b&lt;c</code> <strong>d</strong> e</p>"
        assert to_html("- a\n- b\n  c") == "<ul><li>a</li><li>b c</li></ul>"
        assert to_html("```python\nx = 1\n\ny\n```") == "<pre><code>x = 1\n\u00a0\ny</code></pre>"

    def test_the_rules_use_no_markdown_that_is_not_known(self) -> None:
        for rule in all_rules():
            for text in rule.sections().values():
                shown = re.sub(r"<(pre|code)>.*?</\1>", "", to_html(text), flags=re.DOTALL)
                assert "`" not in shown, rule.code
                assert "](" not in shown, rule.code
