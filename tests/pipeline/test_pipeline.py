"""Writing: a file is whole or not there, whatever goes wrong, and nothing is left beside it."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import stat
import time
from collections.abc import Callable, Collection
from pathlib import Path

import helpers
import numpy as np
import onnx
import pytest
from endless import endless

import bnfold
from bnfold import VerifyOptions, fix_file, fold_file
from bnfold.formats.atomic import Sink
from bnfold.formats.onnx.payloads import Computed
from bnfold.graph import Model
from bnfold.pipeline import files, runs
from bnfold.results import FoldResult
from bnfold.verification import Latency, timing
from bnfold.verification.runtime.onnx_file import OnnxFile

CNN = Path(__file__).parents[2] / "sample_models" / "digits_cnn.onnx"
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

    @pytest.mark.parametrize("options", [VerifyOptions(), VerifyOptions(timeout=300)], ids=["free", "limited"])
    def test_latency_and_conversion_with_and_without_limits(
        self, source: Path, tmp_path: Path, options: VerifyOptions
    ) -> None:
        result = fold_file(source, tmp_path / "folded.keras", options=options, latency=True)
        assert result.path is not None
        assert result.latency is not None
        assert any("agree on the original" in note for note in result.notes)

    def test_another_suffix(self, source: Path, tmp_path: Path) -> None:
        with pytest.raises(bnfold.UsageError, match="the suffix decides"):
            fold_file(source, tmp_path / "a.bin")


def test_own_tolerance(tmp_path: Path) -> None:
    options = VerifyOptions(atol=1e-3, inputs={"image": np.zeros((1, 1, 8, 8), np.float32)})
    result = fold_file(CNN, tmp_path / "a.onnx", options=options)
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


# -- limits hold for everything that runs the models ---------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Spoiled(runs.Folding):
    """Folds the first BN wrongly, in other processes too."""

    def __call__(self, model: Model, skip: Collection[str] = ()) -> FoldResult:
        result = super().__call__(model, skip)
        first = bnfold.fold(CNN).plan.steps[0]
        if first.subject in skip:
            return result
        graph = result.model.graph.copy()
        (conv,) = (op for op in graph.ops() if op.name in first.into)
        graph.params[conv.inputs[1]] = graph.params[conv.inputs[1]].scaled(np.full((1, 1, 1, 1), 1.01))
        return dataclasses.replace(result, model=result.model.with_graph(graph))


def crash(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(*_: object) -> None:
    time.sleep(3600)


def eat(*_: object) -> None:
    bytearray(1 << 40)


def says_where(first: OnnxFile, second: OnnxFile, options: VerifyOptions, runs: int | None) -> Latency:
    """In place of measuring the latency: with what it would be measured."""
    found = timing_measure(first, second, options, 1)
    return dataclasses.replace(found, feed=f"{os.getpid()} {options.provider} {options.threads} {options.seed}")


timing_measure = timing.measure
LIMITED = VerifyOptions(timeout=300, memory=16 << 30)


@pytest.mark.slow
class TestLimits:
    @pytest.mark.parametrize("options", [VerifyOptions(), LIMITED], ids=["free", "limited"])
    def test_the_steps_at_fault_are_the_same_with_limits(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: VerifyOptions
    ) -> None:
        monkeypatch.setattr(files, "Folding", Spoiled)
        first = bnfold.fold(CNN).plan.steps[0]
        result = fold_file(CNN, tmp_path / "a.onnx", options=options)
        assert result.path is None
        assert [step.subject for step in result.culprits] == [first.subject]
        result = fold_file(CNN, tmp_path / "a.onnx", options=options, keep_going=True)
        assert result.path is not None
        assert [step.subject for step in result.dropped] == [first.subject]
        assert bnfold.verify(CNN, result.path).equivalent

    @pytest.mark.parametrize(
        ("blow_up", "words"), [(crash, "failed within the memory limit"), (eat, "failed within the memory limit")]
    )
    def test_a_search_for_the_steps_at_fault_that_blows_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blow_up: Callable[..., None], words: str
    ) -> None:
        monkeypatch.setattr(files, "Folding", Spoiled)
        monkeypatch.setattr(runs, "_guilty", blow_up)
        result = fold_file(CNN, tmp_path / "a.onnx", options=LIMITED, keep_going=True)
        assert result.verification is not None
        assert result.verification.verdict == "different"
        assert (result.path, result.culprits) == (None, ())
        assert result.notes[-1].startswith("the steps that make the difference were not found: ")
        assert words in result.notes[-1]
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("blow_up", [crash, eat])
    def test_a_latency_that_blows_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blow_up: Callable[..., None]
    ) -> None:
        monkeypatch.setattr(timing, "measure", blow_up)
        result = fold_file(CNN, tmp_path / "a.onnx", options=LIMITED, latency=True)
        assert result.path is not None
        assert result.latency is None
        assert result.notes[-1].startswith("the latency was not measured: the process failed within the memory limit")

    def test_one_deadline_for_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the comparison leaves of the time is what the latency has."""
        monkeypatch.setattr(timing, "measure", hang)
        result = fold_file(CNN, tmp_path / "a.onnx", options=VerifyOptions(timeout=20), latency=True)
        assert result.path is not None
        assert result.latency is None
        assert result.notes[-1] == "the latency was not measured: the time limit of 20 s was reached"

    @pytest.mark.parametrize("verify", [True, False])
    def test_the_options_reach_the_latency(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: bool) -> None:
        monkeypatch.setattr(timing, "measure", says_where)
        options = dataclasses.replace(LIMITED, threads=1, seed=7)
        result = fold_file(CNN, tmp_path / "a.onnx", options=options, latency=True, verify=verify)
        assert result.latency is not None
        pid, provider, threads, seed = result.latency.feed.split()
        assert int(pid) != os.getpid()
        assert (provider, threads, seed) == ("CPUExecutionProvider", "1", "7")

    def test_a_model_that_never_ends(self, tmp_path: Path) -> None:
        result = fold_file(endless(tmp_path / "in.onnx"), tmp_path / "out.onnx", options=VerifyOptions(timeout=3))
        assert result.summary.after.batchnorms == 0
        assert result.verification is not None
        assert result.verification.sentence() == "not verified: the time limit of 3 s was reached"
        assert result.path is None
        assert os.listdir(tmp_path) == ["in.onnx"]
