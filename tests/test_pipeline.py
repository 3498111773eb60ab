"""Writing: a file is whole or not there, whatever goes wrong, and nothing is left beside it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import helpers
import numpy as np
import onnx
import pytest

import bnfold
from bnfold.formats.atomic import Sink
from bnfold.formats.onnx.payloads import Computed
from bnfold.pipeline import Check, fix_file, fold_file

CNN = Path(__file__).parents[1] / "sample_models" / "digits_cnn.onnx"
OLD = b"what was there before"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that exists already."""
    path = tmp_path / "out.onnx"
    path.write_bytes(OLD)
    return path


def test_an_existing_file_is_replaced_and_keeps_its_permissions(target: Path) -> None:
    target.chmod(0o640)
    result = fold_file(CNN, target)
    assert result.path == target
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert os.listdir(target.parent) == ["out.onnx"]
    assert onnx.load(target).graph.node


def test_a_link_is_followed(tmp_path: Path, target: Path) -> None:
    link = tmp_path / "link.onnx"
    link.symlink_to(target)
    fold_file(CNN, link)
    assert link.is_symlink()
    assert target.read_bytes() != OLD


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("write", [fold_file, fix_file])
def test_a_full_disk(target: Path, monkeypatch: pytest.MonkeyPatch, number: int, write: object) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(bnfold.OutputError, match=os.strerror(number).lower()[:8]):
        write(CNN, target)  # type: ignore[operator]
    monkeypatch.undo()
    assert target.read_bytes() == OLD
    assert os.listdir(target.parent) == ["out.onnx"]


def test_a_rename_that_fails(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, where: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(bnfold.OutputError, match="permission denied"):
        fold_file(CNN, target)
    monkeypatch.undo()
    assert target.read_bytes() == OLD
    assert os.listdir(target.parent) == ["out.onnx"]


def test_an_interruption_while_verifying(target: Path) -> None:
    def stop(stage: str) -> None:
        if stage == "verifying":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fold_file(CNN, target, progress=stop)
    assert target.read_bytes() == OLD
    assert os.listdir(target.parent) == ["out.onnx"]


def test_the_stages_are_announced(tmp_path: Path) -> None:
    stages: list[str] = []
    fold_file(CNN, tmp_path / "a.onnx", latency=True, progress=stages.append)
    assert stages == ["reading the model", "folding", "writing", "verifying", "measuring the latency"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(bnfold.OutputError, match="write-protected"):
        fold_file(CNN, folder / "a.onnx")


class TestExternalData:
    @staticmethod
    def model(folder: Path) -> Path:
        net = helpers.Net()
        x = net.op("Conv", net.input(1, 16, 8, 8), net.draw(64, 16, 3, 3), name="conv")
        path = folder / "in.onnx"
        onnx.save(net.build(net.op("Relu", net.bn(x, 64))), path)
        return path

    def test_the_weights_go_into_a_file_of_their_own(self, tmp_path: Path) -> None:
        source, out = self.model(tmp_path), tmp_path / "out.onnx"
        result = fold_file(source, out, external_data=True)
        assert sorted(os.listdir(tmp_path)) == ["in.onnx", "out.onnx", "out.onnx.data"]
        assert result.verification is not None
        assert result.verification.equivalent
        assert bnfold.verify(source, out).equivalent
        onnx.checker.check_model(str(out), full_check=True)
        assert result.summary.file_after is not None
        assert result.summary.file_after > out.stat().st_size

    def test_again_over_itself(self, tmp_path: Path) -> None:
        source, out = self.model(tmp_path), tmp_path / "out.onnx"
        fold_file(source, out, external_data=True)
        fold_file(source, out, external_data=True)
        assert bnfold.verify(source, out).equivalent


@pytest.mark.keras
class TestKeras:
    @pytest.fixture(scope="class")
    def source(self) -> Path:
        return CNN.with_name("mlp_bn_before.keras")

    @pytest.mark.parametrize("suffix", [".keras", ".h5", ".onnx"])
    def test_the_suffix_decides(self, source: Path, tmp_path: Path, suffix: str) -> None:
        out = tmp_path / f"folded{suffix}"
        result = fold_file(source, out)
        assert os.listdir(tmp_path) == [out.name]
        assert result.verification is not None
        assert result.verification.equivalent
        assert (result.summary.before.batchnorms, result.summary.after.batchnorms) == (3, 0)
        assert result.summary.after.affines == 0
        assert any("agree on the original" in note for note in result.notes)
        assert bnfold.load(out).format == ("onnx" if suffix == ".onnx" else "keras")

    def test_another_suffix(self, source: Path, tmp_path: Path) -> None:
        with pytest.raises(bnfold.UsageError, match="the suffix decides"):
            fold_file(source, tmp_path / "a.bin")


def test_own_tolerance(tmp_path: Path) -> None:
    check = Check(atol=1e-3, inputs={"image": np.zeros((1, 1, 8, 8), np.float32)})
    result = fold_file(CNN, tmp_path / "a.onnx", check=check)
    assert result.verification is not None
    assert result.verification.feeds.count == 1


def test_what_is_verified_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that spoils a weight on its way to the disk is caught."""

    def spoil(self: Computed, out: Sink) -> None:
        out.write((self.param.array() * 2).tobytes())

    monkeypatch.setattr(Computed, "write", spoil)
    result = fold_file(CNN, tmp_path / "a.onnx")
    assert result.verification is not None
    assert result.verification.verdict == "different"
    assert result.path is None
    assert os.listdir(tmp_path) == []
