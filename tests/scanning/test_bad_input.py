"""What is wrong about a scan's arguments, its places and its store: one sentence, exit code 2, nothing left behind."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import onnx
import pytest
import s3
from command_line import bnfold
from onnx_models import conv_bn
from process import assert_one_sentence, names, small_files, without_privileges
from process import bnfold as bnfold_process

from bnfold import scan
from bnfold.jobs.store import Store
from bnfold.scanning import ScanStore

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="fork servers are Linux's")]
#: A port on which nobody listens.
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bnfold.scanning.discovery._SETTLED", 0.0)


def assert_refused(arguments: list[str], words: str, before: list[str] = ()) -> None:
    done = bnfold(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"bnfold: {words}")
    assert done.err.count("\n") == 1
    assert "Traceback" not in done.err
    assert names(Path()) == sorted(before)


class TestS3:
    """A server that looks at who asks."""

    @pytest.fixture(scope="class")
    def server(self) -> Iterator[tuple[str, dict[str, dict[str, str]]]]:
        with s3.s3_server() as address:
            files = fsspec.filesystem("s3", skip_instance_cache=True, endpoint_url=address, key="test", secret="test")
            files.mkdir("models")
            files.pipe_file("models/a.onnx", conv_bn().SerializeToString())
            users = {
                "nobody": s3.user(address, "nobody"),
                "reader": s3.user(address, "reader", "s3:Get*", "s3:List*", "s3:Head*"),
                "writer": s3.user(address, "writer", "s3:*"),
            }
            users["wrong"] = {**users["reader"], "AWS_SECRET_ACCESS_KEY": "x" * 40}
            s3.check_permissions(address)
            yield address, users

    @pytest.fixture
    def become(self, server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
        def change(user: str | None, address: str = "") -> None:
            monkeypatch.setenv("HOME", str(tmp_path))  # no credentials of whoever runs this
            settings = {"AWS_ENDPOINT_URL": address or server[0], "AWS_DEFAULT_REGION": "us-east-1"}
            settings |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1"}
            settings |= server[1][user] if user else {}
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
                monkeypatch.delenv(name, raising=False)
            for name, value in settings.items():
                monkeypatch.setenv(name, value)
            s3.forget_clients()

        return change

    @pytest.mark.parametrize(
        ("target", "words"),
        [
            ("s3://nowhere/", "s3://nowhere/ does not exist"),
            ("s3://nowhere/*.onnx", "s3://nowhere does not exist"),
            ("s3://models/none/", "s3://models/none/ does not exist"),
            ("s3://models/none.onnx", "s3://models/none.onnx does not exist"),
            ("s3://models/*.keras", "there are no models in s3://models/*.keras"),
        ],
    )
    def test_no_such_bucket_prefix_or_object(self, become, target: str, words: str) -> None:
        become("writer")
        assert_refused(["scan", target], words)

    @pytest.mark.parametrize("target", ["s3://models/", "s3://models/*.onnx", "s3://models/a.onnx"])
    @pytest.mark.parametrize("user", ["nobody", "wrong"])
    def test_no_permission_and_a_wrong_key(self, become, user: str, target: str) -> None:
        become(user)
        assert_refused(["scan", target], f"{target} cannot be read: permission denied (")

    def test_no_credentials(self, become) -> None:
        become(None)
        words = "s3://models/ cannot be read: NoCredentialsError: Unable to locate credentials"
        assert_refused(["scan", "s3://models/"], words)

    def test_one_file_that_is_not_for_everybody(self, become) -> None:
        become("nobody")
        words = "s3://models/a.onnx cannot be read: permission denied ("
        assert_refused(["analyze", "s3://models/a.onnx"], words)
        assert_refused(["fold", "s3://models/a.onnx", "-o", "b.onnx"], words)

    @pytest.mark.parametrize("address", [NOBODY, "http://nowhere.invalid"])
    def test_an_endpoint_that_does_not_answer(self, become, address: str) -> None:
        become("reader", address)
        words = (
            f's3://models/ cannot be read: EndpointConnectionError: Could not connect to the endpoint URL: "{address}'
        )
        assert_refused(["scan", "s3://models/"], words)

    def test_where_results_cannot_be_put(self, become) -> None:
        become("reader")
        words = "s3://models/folded cannot be written: permission denied (Access Denied)"
        assert_refused(["scan", "s3://models/", "--fold-to", "s3://models/folded"], words)
        become("writer")
        words = "s3://nowhere/folded cannot be written: there is no such place"
        assert_refused(["scan", "s3://models/", "--fold-to", "s3://nowhere/folded"], words)
        assert_refused(
            ["scan", "s3://models/", "--fold-to", "s3://models/"],
            "s3://models/ is what is scanned, so that results need a folder of their own",
        )


class TestStores:
    @pytest.fixture
    def models(self, tmp_path: Path) -> list[str]:
        (tmp_path / "models").mkdir()
        for number in range(30):
            onnx.save(conv_bn(channels=4 + number), tmp_path / "models" / f"{number}.onnx")
        return names(tmp_path)

    def test_another_version(self, models: list[str]) -> None:
        ScanStore("s.sqlite").close()
        with sqlite3.connect("s.sqlite") as database:
            database.execute("update meta set value = '7' where key = 'version'")
        database.close()
        assert_refused(
            ["scan", "models", "--store", "s.sqlite"],
            "s.sqlite is a store of version 7.1, and this bnfold writes 2.1: name another file with --store",
            [*models, "s.sqlite"],
        )

    def test_another_kind(self, models: list[str]) -> None:
        Store("s.sqlite", kind="training").close()
        words = "s.sqlite is a store of another kind: training, not scan"
        assert_refused(["scan", "models", "--store", "s.sqlite"], words, [*models, "s.sqlite"])

    def test_no_database(self, models: list[str]) -> None:
        words = "models/0.onnx is not a store: it is no SQLite database"
        before = Path("models/0.onnx").read_bytes()
        assert_refused(["scan", "models", "--store", "models/0.onnx"], words, models)
        assert Path("models/0.onnx").read_bytes() == before

    @pytest.mark.parametrize(
        ("store", "words"),
        [
            ("models", "'models' cannot be a store: it is a folder"),
            ("", "'' cannot be a store: it is no name of a file"),
            ("/proc/s.sqlite", "/proc/s.sqlite cannot be written: no such file or directory"),
            ("none/s.sqlite", "none/s.sqlite cannot be written: no such file or directory"),
            ("/dev/full", "/dev/full cannot be used: database or disk is full"),
            ("s3://bucket/s.sqlite", "s3://bucket/s.sqlite: a store is a file of this machine, and not a URL"),
        ],
    )
    def test_no_place_for_one(self, models: list[str], store: str, words: str) -> None:
        assert_refused(["scan", "models", "--store", store], words, models)
        assert not Path("/dev/full-lock").exists()

    @pytest.mark.parametrize("protected", ["file", "folder"])
    def test_a_read_only_store_and_one_in_a_read_only_folder(self, models: list[str], protected: str) -> None:
        Path("stores").mkdir()
        list(scan(["models/0.onnx"], store="stores/s.sqlite"))
        before = Path("stores/s.sqlite").read_bytes()
        Path("stores/s.sqlite" if protected == "file" else "stores").chmod(0o555)
        done = bnfold_process("scan", "models", "--store", "stores/s.sqlite", before=without_privileges)
        Path("stores").chmod(0o755)
        assert_one_sentence(done, "bnfold: stores/s.sqlite cannot be written: ")
        assert Path("stores/s.sqlite").read_bytes() == before
        assert [name for name in names(Path("stores")) if name not in ("s.sqlite-shm", "s.sqlite-wal")] == ["s.sqlite"]

    def test_a_disk_that_is_full_from_the_beginning(self, models: list[str]) -> None:
        done = bnfold_process("scan", "models", "--store", "s.sqlite", before=small_files(10_000))
        assert_one_sentence(done, "s.sqlite cannot be used: ")
        assert names(Path()) == models

    def test_a_disk_that_becomes_full_keeps_what_was_done(self, models: list[str]) -> None:
        done = bnfold_process("scan", "models", "--store", "s.sqlite", before=small_files(300_000))
        assert_one_sentence(done, "s.sqlite cannot be used: ")
        with ScanStore("s.sqlite") as store:
            (kept,) = store.query("select count(*) from models").fetchone()
            assert store.query("pragma integrity_check").fetchall() == [("ok",)]
        assert 0 < kept < 30
        assert len(list(scan(["models"], store="s.sqlite"))) >= 30 - kept
        with ScanStore("s.sqlite") as store:
            assert store.query("select status, count(*) from models group by status").fetchall() == [("ok", 30)]

    def test_two_scans_in_one_store_at_the_same_time(self, models: list[str]) -> None:
        with ScanStore("s.sqlite"):
            done = bnfold_process("scan", "models", "--store", "s.sqlite")
            assert_one_sentence(done, "s.sqlite is in use by another run of bnfold")
        assert bnfold_process("scan", "models", "--store", "s.sqlite").returncode == 0
        assert names(Path()) == [*models, "s.sqlite"]


class TestArguments:
    @pytest.fixture
    def empty(self) -> None:
        Path("empty").mkdir()
        Path("text").write_text("this is some text " * 100)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["empty"], "there are no models in empty"),
            (["empty", "empty/*.onnx"], "there are no models in empty, empty/*.onnx"),
            (["nothing"], "nothing cannot be read: no such file or directory"),
            ([""], "a target is an empty text"),
            (["empty", "--select", "BN9999"], "there is no rule 'BN9999'"),
            (["empty", "--export", "table.txt"], "table.txt: a table is written as .parquet or .csv"),
            (["empty", "--export", "none/table.csv"], "none/table.csv cannot be written: there is no folder "),
            (["empty", "--export", "s.csv", "--store", "s.csv"], "s.csv is the store; give the table another name"),
            (["empty", "--fold-to", "text"], "text cannot be written"),
            (["empty", "--fold-to", ""], "--fold-to needs the name of a folder"),
            (["empty", "--fold-to", "empty"], "empty is what is scanned, so that results need a folder of their own"),
            (["empty", "--fold-to", "memory://x"], "memory://x: what the processes of the models put there"),
            (
                ["empty", "--fold-to", "https://127.0.0.1:9/x"],
                "https://127.0.0.1:9/x: over HTTP models can be read, and not written",
            ),
            (["gs://models/x"], "gs://models/x: the client for gs:// is not installed: pip install gcsfs"),
            (["hf://models/x"], "hf://models/x: the client for hf:// is not installed: pip install huggingface_hub"),
            (["nowhere://x"], "nowhere://x: there is no protocol nowhere://"),
            (["memory://nothing"], "memory://nothing does not exist"),
            (["memory://nothing/*.onnx"], "memory://nothing does not exist"),
        ],
    )
    def test_one_sentence(self, empty, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("gcsfs", "huggingface_hub"):
            monkeypatch.setitem(sys.modules, module, None)
        assert_refused(["scan", *arguments], words, ["empty", "text"])

    @pytest.mark.parametrize(
        ("address", "words"),
        [
            ("tcp://127.0.0.1:9", "tcp://127.0.0.1:9: Timed out trying to connect"),
            ("tcp://nowhere.invalid:8786", "tcp://nowhere.invalid:8786: Timed out trying to connect"),
            ("nonsense", "nonsense: missing port number"),
            ("tls://127.0.0.1:9", "tls://127.0.0.1:9: TLS expects a `ssl_context`"),
            ("other://127.0.0.1:9", "other://127.0.0.1:9: unknown address scheme 'other'"),
            ("", "an address without a name: missing port number"),
        ],
    )
    def test_a_scheduler_that_cannot_be_reached(
        self, empty, address: str, words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bnfold.jobs.cluster._CONNECT_SECONDS", 0.5)
        words = f"there is no Dask scheduler at {words}"
        assert_refused(["scan", "empty", "--scheduler", address], words, ["empty", "text"])

    def test_nothing_complains_when_the_process_ends(self, empty) -> None:
        done = bnfold_process("scan", "empty", "--scheduler", "nonsense")
        assert_one_sentence(done, "there is no Dask scheduler at nonsense: missing port number")
