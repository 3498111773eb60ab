"""Many models: which are found, what rows say, what is read again, and that nothing a model does reaches another."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import onnx
import pyarrow.parquet
import pytest
import s3
from command_line import SAMPLES, bnfold
from dask_cluster import cluster
from onnx_models import conv_bn
from onnx_nets import Net
from process import ROOT, assert_one_sentence, environment
from process import bnfold as bnfold_process

from bnfold import scan
from bnfold.errors import ModelFileError, UsageError
from bnfold.scanning import ScanStore
from bnfold.scanning.discovery import find_targets

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="fork servers are Linux's")]
#: A module that jobs find imported: models with these names do harm when they are read.
FAULTS = ("planted_faults",)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bnfold.scanning.discovery._SETTLED", 0.0)  # files are as old as the test


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two models with BN, one without, one that is damaged, in a folder with others."""
    folder = tmp_path / "models"
    (folder / "deep").mkdir(parents=True)
    onnx.save(conv_bn(), folder / "a.onnx")
    onnx.save(conv_bn(channels=8), folder / "deep" / "b.onnx")
    net = Net()
    onnx.save(net.build(net.act("relu", net.conv("conv", net.start(), 3, 4, bias=True))), folder / "plain.onnx")
    (folder / "damaged.onnx").write_bytes(conv_bn().SerializeToString()[:300])
    (folder / "notes.txt").write_text("not a model")
    return folder


def statuses(rows: Iterator) -> dict[str, str]:
    return {Path(row.path).name: row.status for row in rows}


USUAL = {"a.onnx": "ok", "b.onnx": "ok", "plain.onnx": "findings", "damaged.onnx": "failed"}


class TestTargets:
    def test_a_folder_with_all_below(self, models: Path) -> None:
        found = [(target.name, target.size) for target in find_targets([models])]
        assert [name for name, _ in found] == ["a.onnx", "damaged.onnx", "plain.onnx", "deep/b.onnx"]
        assert found[1][1] == 300

    def test_files_globs_and_each_once(self, models: Path) -> None:
        found = find_targets([str(models / "a.onnx"), str(models / "*.onnx"), str(models / "**" / "b.onnx")])
        assert [target.name for target in found] == ["a.onnx", "damaged.onnx", "plain.onnx", "b.onnx"]

    def test_once_however_the_way_there_is_spelled(self, models: Path) -> None:
        (models / "deep" / "loop").symlink_to("../deep")
        (models / "other").symlink_to("deep")
        (models / "deep" / "twin.onnx").symlink_to("b.onnx")  # a name of its own
        targets = ["models", "./models", str(models), "models/../models", "models/**/*.onnx", models.as_uri()]
        assert sorted(target.name for target in find_targets(targets[:-1])) == [
            "a.onnx", "damaged.onnx", "deep/b.onnx", "deep/twin.onnx", "plain.onnx",
        ]  # fmt: skip

    def test_archives(self, models: Path, tmp_path: Path) -> None:
        """URLs of fsspec that name where the file system lies that they are of."""
        external = ("external.onnx", "external.bin")
        onnx.save(
            conv_bn(), models / "external.onnx", save_as_external_data=True, location="external.bin", size_threshold=0
        )
        for number in (1, 2):
            with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
                for file in ("a.onnx", "deep/b.onnx", "notes.txt", *external):
                    archive.write(models / file, file)
        rows = list(scan(["zip://::1.zip", "zip://**/*.onnx::2.zip", "zip://a.onnx::1.zip"], store="s.sqlite"))
        assert sorted((row.path, row.status) for row in rows) == [
            (f"zip://{name}::{number}.zip", "ok")
            for name in ("a.onnx", "deep/b.onnx", "external.onnx")
            for number in (1, 2)
        ]
        assert list(scan(["zip://::1.zip"], store="s.sqlite")) == []
        [row] = scan(["zip://external.onnx::1.zip"], store="t.sqlite", fold_to="out")
        assert row.status == "folded"
        assert bnfold("verify", "zip://external.onnx::2.zip", "out/external.onnx").code == 0
        assert "there are no models in" in bnfold("scan", "zip://*.none::1.zip").err

    def test_a_saved_model_is_one(self, tmp_path: Path) -> None:
        (tmp_path / "m" / "saved" / "variables").mkdir(parents=True)
        (tmp_path / "m" / "saved" / "saved_model.pb").write_bytes(b"123")
        (tmp_path / "m" / "saved" / "variables" / "inner.onnx").write_bytes(b"4567")
        first = list(find_targets([tmp_path / "m"]))
        assert [(target.name, target.size) for target in first] == [("saved", 7)]
        (tmp_path / "m" / "saved" / "variables" / "inner.onnx").write_bytes(b"456")
        assert next(find_targets([tmp_path / "m"])).identity != first[0].identity

    def test_where_results_go_is_left_out(self, models: Path) -> None:
        names = [target.name for target in find_targets([models], without=str(models / "deep"))]
        assert "deep/b.onnx" not in names
        assert len(names) == 3

    def test_a_target_that_does_not_exist(self) -> None:
        with pytest.raises(ModelFileError, match=r"nothing\.onnx cannot be read: no such file"):
            list(find_targets(["nothing.onnx"]))


class TestScan:
    def test_rows_and_what_the_store_has_of_them(self, models: Path) -> None:
        rows = {Path(row.path).name: row for row in scan([models], store="s.sqlite", workers=2)}
        assert {name: row.status for name, row in rows.items()} == USUAL
        assert "is damaged" in rows["damaged.onnx"].sentence
        assert len(rows["a.onnx"].report["batchnorms"]) == 1
        assert rows["a.onnx"].peak > 1 << 20
        with ScanStore("s.sqlite") as store:
            found = store.query("select path, status, size, batchnorms, foldable from models order by path").fetchall()
            assert [row[1:2] + row[3:] for row in found] == [
                ("ok", 1, 1), ("failed", None, None), ("ok", 1, 1), ("findings", 0, 0),
            ]  # fmt: skip
            assert all(row[2] == os.path.getsize(row[0]) for row in found)
            assert store.query("select name, channels from batchnorms order by channels").fetchall() == [
                ("bn", 8), ("bn", 16),
            ]  # fmt: skip

    def test_one_target_and_none(self, models: Path) -> None:
        assert statuses(scan(str(models / "a.onnx"), store="s.sqlite")) == {"a.onnx": "ok"}
        assert statuses(scan(models / "plain.onnx", store="s.sqlite")) == {"plain.onnx": "findings"}
        with pytest.raises(UsageError, match="no targets are given"):
            list(scan([], store="s.sqlite"))

    def test_what_the_store_has_from_earlier_scans_is_told(self, models: Path) -> None:
        assert "known from earlier" not in bnfold("scan", "models/deep").out
        outcome = bnfold("scan", "models/a.onnx")
        assert outcome.out.startswith("2 models, 1 of them known from earlier scans into this store alone")

    def test_what_has_not_changed_is_not_read_again(self, models: Path) -> None:
        assert len(list(scan([models], store="s.sqlite"))) == 4
        assert list(scan([models], store="s.sqlite")) == []
        onnx.save(conv_bn(channels=32), models / "a.onnx")
        assert statuses(scan([models], store="s.sqlite")) == {"a.onnx": "ok"}
        assert len(list(scan([models], store="s.sqlite", refresh=True))) == 4
        assert len(list(scan([models], store="s.sqlite", select=["BN1"]))) == 4

    def test_folding(self, models: Path) -> None:
        rows = {Path(row.path).name: row for row in scan([models], store="s.sqlite", fold_to="out")}
        assert {name: row.status for name, row in rows.items()} == {**USUAL, "a.onnx": "folded", "b.onnx": "folded"}
        assert sorted(str(path) for path in Path("out").rglob("*.*")) == ["out/a.onnx", "out/deep/b.onnx"]
        assert {node.op_type for node in onnx.load("out/a.onnx").graph.node} == {"Conv", "Relu"}
        assert bnfold("verify", models / "a.onnx", "out/a.onnx").code == 0
        assert rows["a.onnx"].fold["written"]
        Path("out/a.onnx").unlink()  # and only that is done again
        assert statuses(scan([models], store="s.sqlite", fold_to="out")) == {"a.onnx": "folded"}

    def test_results_of_one_name_do_not_overwrite_each_other(self, tmp_path: Path) -> None:
        for name, channels in (("one", 4), ("two", 8)):
            (tmp_path / name).mkdir()
            onnx.save(conv_bn(channels=channels), tmp_path / name / "m.onnx")
        list(scan(["one", "two"], store="s.sqlite", fold_to="out"))
        shapes = [onnx.load(path).graph.initializer[0].dims[0] for path in Path("out").iterdir()]
        assert sorted(shapes) == [4, 8]

    def test_names_that_are_no_unicode(self, models: Path) -> None:
        strange = os.path.abspath(os.fsdecode(b"models/caf\xe9.onnx"))
        (models / "a.onnx").rename(strange)
        Path("models/deep/b.onnx").rename(os.fsdecode(b"models/deep/caf\xe9.onnx"))
        assert {row.path: row.status for row in scan([models], store="s.sqlite", fold_to="out")}[strange] == "folded"
        assert list(scan([models], store="s.sqlite", fold_to="out")) == []
        outcome = bnfold("scan", "models", "--store", "t.sqlite", "--format", "json", "--export", "t.csv")
        assert {Path(each["path"]).name for each in json.loads(outcome.out)["models"]} == {
            "caf\\udce9.onnx", "plain.onnx", "damaged.onnx",
        }  # fmt: skip

    def test_any_executor(self, models: Path) -> None:
        with ThreadPoolExecutor(2) as executor:
            assert statuses(scan([models], store="s.sqlite", executor=executor)) == USUAL

    def test_a_model_costs_its_own_row_and_nothing_else(self, models: Path) -> None:
        for name in ("hang", "exhaust", "kill", "segfault"):
            shutil.copy(models / "a.onnx", models / f"{name}.onnx")
        limits = {"timeout": 4.0, "memory": 1_500_000_000}
        rows = {Path(row.path).name: row for row in scan([models], store="s.sqlite", preload=FAULTS, **limits)}
        assert {name: row.status for name, row in rows.items()} == {
            **USUAL, "hang.onnx": "timeout", "exhaust.onnx": "out of memory", "kill.onnx": "crashed",
            "segfault.onnx": "crashed",
        }  # fmt: skip
        assert rows["kill.onnx"].attempts == 2
        assert rows["exhaust.onnx"].sentence == "the memory limit of 1,500 MB was reached"
        assert list(scan([models], store="s.sqlite", preload=FAULTS, **limits)) == []
        again = scan([models], store="s.sqlite", preload=(), **{**limits, "timeout": 60.0})
        assert statuses(again) == dict.fromkeys(("hang.onnx", "exhaust.onnx", "kill.onnx", "segfault.onnx"), "ok")

    def test_memory_of_this_process(self, models: Path) -> None:
        files = fsspec.filesystem("memory")
        files.store.clear()
        for file in models.rglob("*.onnx"):
            files.pipe_file(f"/bucket/{file.relative_to(models)}", file.read_bytes())
        assert statuses(scan(["memory://bucket"], store="s.sqlite")) == USUAL
        assert list(scan(["memory://bucket"], store="s.sqlite")) == []
        files.store.clear()

    @pytest.mark.keras
    def test_keras(self) -> None:
        [row] = scan([SAMPLES / "mlp_bn_before.keras"], store="s.sqlite", fold_to="out")
        assert (row.status, row.report["format"]) == ("folded", "keras")
        assert Path("out/mlp_bn_before.keras").is_file()


class TestS3:
    @pytest.fixture
    def bucket(self, models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
        with s3.s3_server() as address:
            for name, value in s3.environment(address).items():
                monkeypatch.setenv(name, value)
            files = fsspec.filesystem("s3", skip_instance_cache=True, endpoint_url=address)
            files.mkdir("models")
            for file in models.rglob("*.onnx"):
                files.pipe_file(f"models/all/{file.relative_to(models)}", file.read_bytes())
            yield files

    def test_a_bucket(self, bucket: fsspec.AbstractFileSystem) -> None:
        rows = {Path(row.path).name: row for row in scan(["s3://models/all"], store="s.sqlite")}
        assert {name: row.status for name, row in rows.items()} == USUAL
        assert rows["a.onnx"].read["requests"] == 1
        assert rows["a.onnx"].read["bytes"] == rows["a.onnx"].size
        assert list(scan(["s3://models/all"], store="s.sqlite")) == []
        bucket.pipe_file("models/all/a.onnx", conv_bn(channels=4).SerializeToString())
        assert statuses(scan(["s3://models/all"], store="s.sqlite")) == {"a.onnx": "ok"}
        glob = scan(["s3://models/all/*.onnx"], store="t.sqlite", fold_to="s3://models/folded")
        assert statuses(glob) == {"a.onnx": "folded", "plain.onnx": "findings", "damaged.onnx": "failed"}
        assert bucket.ls("models/folded") == ["models/folded/a.onnx"]

        done = bnfold_process("scan", "s3://nowhere/")
        assert_one_sentence(done, "s3://nowhere/ does not exist")
        done = bnfold_process("scan", "s3://models/none/")
        assert_one_sentence(done, "s3://models/none")
        done = bnfold_process("scan", "gs://models/")
        assert_one_sentence(done, "the client for gs:// is not installed: pip install gcsfs")


class TestCommand:
    def test_the_summary(self, models: Path) -> None:
        done = bnfold("scan", models, "--fold-to", "out", "--fail-on", "never")
        assert done.code == 1
        assert "4 models" in done.words
        assert "2 folded verified and written" in done.words
        assert "2 of 2 BN fold, which takes " in done.words
        assert "damaged.onnx is damaged" in done.words
        assert "4 of them unchanged" in bnfold("scan", models, "--fold-to", "out").words

    def test_exit_codes(self, models: Path) -> None:
        (models / "damaged.onnx").unlink()
        assert bnfold("scan", models).code == 0
        assert bnfold("scan", models, "--fail-on", "info").code == 1
        assert bnfold("scan", models, "--fail-on", "never").code == 0

    def test_formats(self, models: Path) -> None:
        done = bnfold("scan", models, "--format", "json")
        data = json.loads(done.out)
        assert data["summary"]["statuses"] == {"ok": 2, "findings": 1, "failed": 1}
        assert {Path(model["path"]).name: model["status"] for model in data["models"]} == USUAL
        assert all(model["findings"] for model in data["models"] if model["status"] == "findings")
        assert "damaged.onnx" in done.err
        sarif = json.loads(bnfold("scan", models, "--format", "sarif").out)
        assert len(sarif["runs"][0]["results"]) == sum(len(model["findings"]) for model in data["models"])
        lines = bnfold("scan", models, "--format", "github").out.splitlines()
        assert len(lines) == len(sarif["runs"][0]["results"]) + 1

    def test_exports(self, models: Path) -> None:
        bnfold("scan", models, "--export", "t.csv")
        bnfold("scan", models, "--export", "t.parquet")
        rows = list(csv.DictReader(Path("t.csv").read_text().splitlines()))
        assert {Path(row["path"]).name: row["status"] for row in rows} == USUAL
        table = pyarrow.parquet.read_table("t.parquet").to_pylist()
        assert [row["path"] for row in table] == [row["path"] for row in rows]
        assert [str(row["batchnorms"] or 0) for row in table] == [row["batchnorms"] or "0" for row in rows]

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["empty"], "there are no models in empty"),
            (["nothing"], "nothing cannot be read: no such file or directory"),
            (["empty", "--select", "BN9999"], "there is no rule 'BN9999'"),
            (["empty", "--export", "table.txt"], "table.txt: a table is written as .parquet or .csv"),
            (["empty", "--store", "none/s.sqlite"], "none/s.sqlite cannot be written: no such file or directory"),
            (["empty", "--store", "text"], "text is not a store"),
            (["empty", "--fold-to", "text"], "text cannot be written"),
            (["empty", "--scheduler", "tcp://127.0.0.1:9"], "there is no Dask scheduler at tcp://127.0.0.1:9"),
        ],
    )
    def test_bad_input(self, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bnfold.jobs.cluster._CONNECT_SECONDS", 0.5)
        Path("empty").mkdir()
        Path("text").write_text("this is some text " * 100)
        done = bnfold("scan", *arguments)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("bnfold: ")
        assert words in done.err
        assert done.err.count("\n") == 1


def test_an_unknown_rule_ends_the_call_before_anything_is_read(models: Path) -> None:
    with pytest.raises(UsageError, match="there is no rule"):
        list(scan([models], select=["BN9999"]))


class TestSurvival:
    """A folder of models with faults, whole or interrupted: the same rows."""

    @pytest.fixture
    def many(self, tmp_path: Path) -> Path:
        folder = tmp_path / "many"
        folder.mkdir()
        for number in range(60):
            onnx.save(conv_bn(channels=4 + number % 5), folder / f"{number:03}.onnx")
        for name in ("hang", "exhaust", "kill"):
            shutil.copy(folder / "000.onnx", folder / f"{name}.onnx")
        for number in (7, 8):
            (folder / f"{number:03}.onnx").write_bytes(b"\x08\x08" + os.urandom(50))
        return folder

    @staticmethod
    def table(store: str) -> list[tuple]:
        with ScanStore(store) as opened:
            return opened.query("select path, status, batchnorms, foldable from models order by path").fetchall()

    @staticmethod
    def command(many: Path, store: str) -> list[str]:
        code = (
            "import sys, bnfold\n"
            "for row in bnfold.scan([sys.argv[1]], store=sys.argv[2], timeout=4.0, memory=1_500_000_000, "
            "preload=('planted_faults',)): pass\n"
        )
        return [sys.executable, "-c", code, str(many), store]

    def test_kill_9_at_random_moments_and_a_dask_cluster_give_the_same_rows(self, many: Path, tmp_path: Path) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
        settings = environment(PYTHONPATH=path)
        subprocess.run(self.command(many, "whole.sqlite"), env=settings, check=True)
        whole = self.table("whole.sqlite")
        ends = [row[1] for row in whole if row[1] != "ok"]
        assert sorted(ends) == ["crashed", "failed", "failed", "out of memory", "timeout"]

        draw = random.Random(0)
        for _ in range(4):
            process = subprocess.Popen(self.command(many, "killed.sqlite"), env=settings)
            time.sleep(1 + 3 * draw.random())
            process.send_signal(signal.SIGKILL)
            process.wait()
        subprocess.run(self.command(many, "killed.sqlite"), env=settings, check=True)
        assert self.table("killed.sqlite") == whole

        from bnfold.jobs.cluster import connected
        from bnfold.scanning.scanner import Scan, scan_into

        (tmp_path / "dask").mkdir()
        what = Scan(timeout=4.0, memory=1_500_000_000, preload=FAULTS)
        with cluster(tmp_path / "dask") as dask, connected(dask.address) as run, ScanStore("dask.sqlite") as store:
            for number, _ in enumerate(scan_into(store, [many], what, run_jobs=run)):
                if number == 10:
                    dask.workers[0].kill()
        assert self.table("dask.sqlite") == whole
