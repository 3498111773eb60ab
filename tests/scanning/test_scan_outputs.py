"""What a scan prints and writes: progress on a terminal alone, formats for programs, tables, formats of models."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import onnx
import pyarrow.parquet
import pytest
from command_line import SAMPLES, bnfold
from onnx_models import conv_bn
from process import command, environment

from bnfold import scan

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="fork servers are Linux's")]
#: What is found in the sample digits_mlp.onnx.
CODES = ["BN201", "BN203"] * 2
SARIF_SCHEMA = Path(__file__).parents[1] / "reporting" / "sarif-2.1.0-rtm.5.json"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seven sound models, one with findings, one that is damaged."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "models"
    folder.mkdir()
    for number in range(7):
        onnx.save(conv_bn(channels=4 + number), folder / f"{number}.onnx")
    (folder / "mlp.onnx").write_bytes((SAMPLES / "digits_mlp.onnx").read_bytes())
    (folder / "damaged.onnx").write_bytes(conv_bn().SerializeToString()[:300])
    return folder


def on_terminal(*arguments: str) -> tuple[str, str]:
    """What a scan writes to its stderr, which is a terminal, and to its stdout, which is none."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(*arguments), env=environment(TERM="xterm", COLUMNS="120"), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = bytearray()
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # how Linux says that nobody holds the other end
            break
        if not part:
            break
        shown += part
    os.close(ours)
    out, _ = process.communicate()
    return shown.decode(), out.decode()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_progress_on_a_terminal(models: Path) -> None:
    shown, out = on_terminal("scan", "models", "--workers", "1")
    lines = plain(shown).replace("\r", "\n").split("\n")
    last = [line for line in lines if "models/s" in line][-1]
    assert re.match(r"9/9 +\S+ +[\d.]+ models/s, 4 findings, 1 failed +0:00:00", last)
    assert shown.endswith("\x1b[2K")  # the line is taken away again
    assert out.startswith("9 models\n")
    assert "\x1b" not in out


@pytest.mark.parametrize("options", [["--quiet"], ["--format", "json", "--quiet"]])
def test_quiet_on_a_terminal(models: Path, options: list[str]) -> None:
    (models / "damaged.onnx").unlink()
    assert on_terminal("scan", "models", *options)[0] == ""


def test_quiet_in_a_pipe(models: Path) -> None:
    (models / "damaged.onnx").unlink()
    done = subprocess.run(command("scan", "models"), env=environment(), capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    done = subprocess.run(command("scan", "models", "-q"), env=environment(), capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_sarif_is_sarif(models: Path) -> None:
    data = json.loads(bnfold("scan", "models", "--format", "sarif").out)
    jsonschema.validate(data, json.loads(SARIF_SCHEMA.read_text()))
    [run] = data["runs"]
    assert [result["ruleId"] for result in run["results"]] == CODES
    [place] = {result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in run["results"]}
    assert place == "models/mlp.onnx"
    [note] = run["invocations"][0]["toolExecutionNotifications"]
    assert "damaged.onnx" in note["message"]["text"]


def test_annotations_for_github(models: Path) -> None:
    lines = bnfold("scan", "models", "--format", "github").out.splitlines()
    assert [line.removeprefix("::").split(" ")[0] for line in lines] == [*["warning", "notice"] * 2, "error"]
    assert "file=models/damaged.onnx" in lines[-1]
    assert all("file=models/mlp.onnx" in line for line in lines[:-1])


def test_json(models: Path) -> None:
    data = json.loads(bnfold("scan", "models", "--format", "json").out)
    assert data["summary"]["models"] == len(data["models"]) == 9
    assert data["summary"]["statuses"] == {"ok": 7, "findings": 1, "failed": 1}
    [mlp] = [model for model in data["models"] if model["path"] == "models/mlp.onnx"]
    assert [finding["code"] for finding in mlp["findings"]] == CODES


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_tables(models: Path, name: str) -> None:
    bnfold("scan", "models", "--fold-to", "out", "--export", name)
    if name == "t.csv":
        rows = list(csv.DictReader(Path(name).read_text().splitlines()))
    else:
        rows = pyarrow.parquet.read_table(name).to_pylist()
    by_name = {Path(row["path"]).name: row for row in rows}
    assert len(rows) == len(by_name) == 9
    assert [int(by_name["mlp.onnx"][key]) for key in ("findings", "size")] == [4, (models / "mlp.onnx").stat().st_size]
    assert by_name["0.onnx"]["folded_to"] == "out/0.onnx"
    assert by_name["damaged.onnx"]["nodes"] in (None, "")
    assert by_name["damaged.onnx"]["status"] == "failed"


def test_a_page_of_all_models(models: Path) -> None:
    done = bnfold("scan", "models", "--report", "page.html")
    assert done.code == 1
    page = Path("page.html").read_text()
    assert all(path.name in page for path in models.iterdir())
    assert "is damaged" in page


@pytest.mark.parametrize(
    ("count", "words"), [(1, ["1 model ", "1 of 1 BN fold, which takes "]), (2, ["2 models ", "2 of 2 BN fold"])]
)
def test_one_and_many(models: Path, count: int, words: list[str]) -> None:
    done = bnfold("scan", *[f"models/{number}.onnx" for number in range(count)])
    assert all(each in done.words for each in words)
    assert "failures" not in done.words


def test_nothing_but_failures(models: Path) -> None:
    done = bnfold("scan", "models/damaged.onnx")
    assert "no BN was found" in done.words
    assert "failures models/damaged.onnx is damaged" in done.words


@pytest.mark.keras
def test_keras_files_and_a_saved_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real files of every format in one folder: analyzed and folded, each under a name of its own."""
    import keras

    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo").mkdir()
    for name in ("mlp_bn_before.keras", "cnn_legacy.h5", "digits_cnn.onnx"):
        (tmp_path / "zoo" / name).write_bytes((SAMPLES / name).read_bytes())
    layers = [
        keras.Input((8, 8, 3)),
        keras.layers.Conv2D(4, 3, name="conv"),
        keras.layers.BatchNormalization(name="bn"),
    ]
    keras.Sequential(layers).export(tmp_path / "zoo" / "exported", verbose=False)
    rows = {Path(row.path).name: row for row in scan(["zoo"], store="s.sqlite", fold_to="out", workers=2)}
    assert {name: (row.status, row.sentence) for name, row in rows.items()} == dict.fromkeys(
        ("mlp_bn_before.keras", "cnn_legacy.h5", "digits_cnn.onnx", "exported"), ("folded", "")
    )
    assert {name: len(row.report["batchnorms"]) for name, row in rows.items()}["exported"] == 1
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "cnn_legacy.h5", "digits_cnn.onnx", "exported.onnx", "mlp_bn_before.keras",
    ]  # fmt: skip
    assert bnfold("verify", "zoo/exported", "out/exported.onnx").code == 0
