"""`bnfold fold` ended at every step it takes in the output's folder, and at any time: what lies there is whole."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from endless import endless
from process import SAMPLES, environment, names, running

import bnfold

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")]

#: Runs the command line again and again in forks of one process; fork n gets the signal at the nth
#: event that Python reports about a path of the folder, until one fork comes through without.
RUNNER = """
import atexit, faulthandler, json, os, shutil, sys, tempfile
from bnfold import cli
import bnfold.api, bnfold.cli.fold, bnfold.pipeline, bnfold.reporting.outcomes, bnfold.verification
import onnx, onnxruntime
source, old, folder, number, verify = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5] == "True"
arguments = ["fold", source, "-q", *([] if verify else ["--no-verify"])]

def watch(limit):
    seen = 0
    def hook(event, details):
        nonlocal seen
        if any(isinstance(part, (str, os.PathLike)) and work in str(part) for part in details):
            seen += 1
            if seen == limit:
                os.kill(os.getpid(), number)
    sys.addaudithook(hook)

codes = []
while 0 not in codes and len(codes) < 500:
    work = os.path.join(folder, str(len(codes) + 1))
    os.mkdir(work)
    os.mkdir(work + ".tmp")
    target = os.path.join(work, "model.onnx")
    shutil.copyfile(old, target)
    child = os.fork()
    if not child:
        tempfile.tempdir = work + ".tmp"  # or Python tries out whether it can write there
        faulthandler.dump_traceback_later(60, exit=True)
        sys.argv = ["bnfold", *arguments, "-o", target]
        watch(len(codes) + 1)
        try:
            cli.main()
        except SystemExit as end:
            # As Python ends, but for the runtime's own threads, which a fork has not got.
            atexit._run_exitfuncs()
            sys.stderr.flush()
            os._exit(end.code or 0)
    status = os.waitpid(child, 0)[1]
    codes.append(os.waitstatus_to_exitcode(status))
print(json.dumps(codes))
"""


@pytest.fixture(autouse=True)
def _nothing_is_ignored() -> Iterator[None]:
    """Children inherit what nohup or a shell's background job ignores, and then nothing would end them."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ignored = [number for number in numbers if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


def interrupted(folder: Path, number: int, verify: bool) -> list[int]:
    """The exit codes of folding digits_cnn over a copy of digits_mlp, ended at its first, second, … step."""
    source, old = SAMPLES / "digits_cnn.onnx", SAMPLES / "digits_mlp.onnx"
    arguments = [str(source), str(old), str(folder), str(int(number)), str(verify)]
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, *arguments],
        env=environment(OPENBLAS_NUM_THREADS="1"),  # a fork must not inherit locks of threads that it has not
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return list(json.loads(done.stdout))


def assert_whole(folder: Path, codes: list[int]) -> None:
    """Each target is the old model up to some step, and the new one from there on."""
    old = bnfold.load(SAMPLES / "digits_mlp.onnx").to_proto()
    new = bnfold.fold(SAMPLES / "digits_cnn.onnx").model.to_proto()
    found = [bnfold.load(folder / str(step) / "model.onnx").to_proto() for step in range(1, len(codes) + 1)]
    renamed = found.index(new)
    assert all(proto == old for proto in found[:renamed])
    assert all(proto == new for proto in found[renamed:])
    assert 2 < renamed < len(found)


def left_in(*folders: Path) -> set[str]:
    """What is in the folders, but for the file in which onnxruntime keeps its own session's number."""
    return {name for folder in folders for name in names(folder)} - {".ses"}


def test_killed_at_every_step(tmp_path):
    codes = interrupted(tmp_path, signal.SIGKILL, verify=False)
    assert set(codes) == {-signal.SIGKILL, 0}
    assert_whole(tmp_path, codes)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_asked_to_end_at_every_step(tmp_path, number, code):
    codes = interrupted(tmp_path, number, verify=number == signal.SIGTERM)
    assert set(codes) == {code, 0}, Counter(codes)
    assert_whole(tmp_path, codes)
    assert left_in(*(tmp_path / str(step) for step in range(1, len(codes) + 1))) == {"model.onnx"}
    assert not left_in(*(tmp_path / f"{step}.tmp" for step in range(1, len(codes) + 1)))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_ended_at_any_time(tmp_path, number):
    """Real processes, real time: from the start of Python to the end of the verification."""
    source, out = SAMPLES / "digits_repvgg.onnx", tmp_path / "out"
    out.mkdir()
    shutil.copyfile(SAMPLES / "digits_mlp.onnx", out / "model.onnx")
    whole = {
        path.SerializeToString(deterministic=True)
        for path in (bnfold.load(out / "model.onnx").to_proto(), bnfold.fold(source).model.to_proto())
    }
    for attempt in range(3):
        process = running(["fold", source, "-o", out / "model.onnx", "-q"], TMPDIR=str(out))
        time.sleep(0.2 + 0.4 * attempt)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert bnfold.load(out / "model.onnx").to_proto().SerializeToString(deterministic=True) in whole
        if number != signal.SIGKILL:
            assert left_in(out) == {"model.onnx"}


def processes_with(text: str) -> set[int]:
    """The processes that have this text in their environment."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text.encode() in (process / "environ").read_bytes():
                found.add(int(process.name))
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ended_while_another_process_verifies(tmp_path, number):
    """With a time limit the work and the run of the model are processes of their own, which must not be left behind."""
    source = endless(tmp_path / "in.onnx")
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    out.mkdir()
    temporary.mkdir()
    arguments = ["fold", source, "-o", out / "model.onnx", "-q", "--timeout", "900"]
    process = running(arguments, TMPDIR=str(temporary))
    for _ in range(1200):
        if len(processes_with(str(temporary))) == 3 and names(out):
            break
        time.sleep(0.05)
    assert len(processes_with(str(temporary))) == 3
    process.send_signal(number)
    process.communicate(timeout=60)
    for _ in range(400):
        if not processes_with(str(temporary)):
            break
        time.sleep(0.05)
    assert not processes_with(str(temporary))
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert not left_in(out, temporary)
