"""Every command on every absurd file: one sentence and exit code 2, or its work, in bounded time and memory."""

from __future__ import annotations

import json
import subprocess
import sys

import h5py
import pytest
from absurd import absurd_files
from process import SAMPLES, assert_one_sentence, bnfold, environment, names

pytestmark = pytest.mark.slow

#: One process runs all commands on all files, and says what each took.
RUNNER = """
import contextlib, io, json, pathlib, resource, sys, time
from bnfold import cli

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

cli.run(["analyze", sys.argv[2], "-q"])
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.onnx")):
    out = path.parent / "out" / path.name
    for name, *rest in (["analyze"], ["fold", "--no-verify", "-o", str(out)], ["fix", "--no-verify", "-o", str(out)]):
        before, start = peak(), time.process_time()
        with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
            code = cli.run([name, str(path), *rest])
        print(json.dumps([path.stem, name, code, err.getvalue(), time.process_time() - start, peak() - before]))
        out.unlink(missing_ok=True) if code == 0 else None
"""
FILES = absurd_files()


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """(exit code, stderr, seconds of processor time, megabytes) by file and command."""
    folder = tmp_path_factory.mktemp("absurd")
    (folder / "out").mkdir()
    for file in FILES:
        (folder / f"{file.name}.onnx").write_bytes(file.data)
    command = [sys.executable, "-c", RUNNER, str(folder), str(SAMPLES / "digits_mlp.onnx")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = {}
    for line in done.stdout.splitlines():
        if line.startswith("["):
            name, verb, *answer = json.loads(line)
            found[name, verb] = answer
    assert names(folder / "out") == []
    return found


@pytest.mark.parametrize("verb", ["analyze", "fold", "fix"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name.replace(" ", "-"))
def test_every_command_on_every_file(answers, file, verb):
    code, said, seconds, megabytes = answers[file.name, verb]
    assert seconds < 20
    assert megabytes < 250 + 150 * len(file.data) / 2**20  # constants are evaluated up to 256 MB in all
    if file.words is None:
        assert (code, said) == (0, "")
        return
    assert code == 2, said
    assert said.count("\n") == 1
    assert said.startswith("bnfold: ")
    assert f"{file.name}.onnx" in said
    assert file.words in said
    assert said.rstrip("\n").isprintable()


def test_verifying_two_absurd_files_is_no_crash(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"text")
    assert_one_sentence(bnfold("verify", tmp_path / "a.onnx", SAMPLES / "digits_mlp.onnx"), "a.onnx is a text file")
    assert_one_sentence(bnfold("verify", tmp_path / "none.onnx"), "none.onnx cannot be read")


@pytest.mark.parametrize("command", ["analyze", "fold"])
def test_a_keras_file_that_leads_elsewhere(tmp_path, command):
    """Refused before Keras, and whatever the file says, is loaded."""
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs["model_config"] = "{}"
        file["weights"] = h5py.ExternalLink("/etc/passwd", "/")
    rest = ["-o", tmp_path / "out.keras"] if command == "fold" else []
    assert_one_sentence(bnfold(command, tmp_path / "model.h5", *rest), "model.h5")
    assert names(tmp_path) == ["model.h5"]
