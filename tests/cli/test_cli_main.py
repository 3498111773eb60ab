"""The command line as a whole: help, start-up, exit codes, errors in one sentence."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import ClassVar

import onnx
import pytest
from click.shell_completion import ShellComplete
from command_line import SAMPLES
from command_line import bnfold as run

import bnfold.api
from bnfold import __version__
from bnfold.cli import COMMANDS, cli, options
from bnfold.formats.keras import backend

CNN = SAMPLES / "digits_cnn.onnx"
HEAVY = ("numpy", "onnx", "onnxruntime", "networkx", "rich", "keras", "tensorflow")


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``bnfold`` as a process of its own."""
    command = [sys.executable, "-m", "bnfold", *arguments]
    # A shell starts what runs in the background with SIGINT ignored, and so would this process.
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=120,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def imported(*arguments: str) -> set[str]:
    """Which heavy packages a command imports."""
    code = (
        "import sys; from bnfold import cli; code = cli.run(sys.argv[1:]); "
        f"print(' '.join(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stderr.split())


class TestHelp:
    def test_names_every_command_and_the_exit_codes(self) -> None:
        outcome = run("--help")
        assert outcome.code == 0
        assert all(command in outcome.out for command in COMMANDS)
        assert "Exit codes: 0 done; 1 findings" in outcome.words

    def test_version(self) -> None:
        assert run("--version").out == f"bnfold {__version__}\n"

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_has_help_that_begins_as_announced(self, command: str) -> None:
        outcome = run(command, "--help")
        assert outcome.code == 0
        assert COMMANDS[command] in outcome.words

    def test_the_start_imports_nothing_heavy(self) -> None:
        assert imported("--help") == set()
        assert imported("--version") == set()
        assert imported("fold", "--help") == set()

    def test_analyze_and_rules_do_not_import_onnxruntime(self) -> None:
        assert imported("analyze", str(CNN)) <= {"numpy", "onnx", "rich"}
        assert "onnxruntime" not in imported("rules")


class TestCompletion:
    @pytest.mark.parametrize(
        ("words", "begun", "found"),
        [
            ([], "eq", ["equalize"]),
            (["fold", "model.onnx"], "--keep", ["--keep-going", "--keep-overridable"]),
            (["rules"], "bn40", [f"BN40{number}" for number in range(1, 9)]),
            (["rules"], "BN9", []),
        ],
    )
    def test_the_shell_completes(self, words: list[str], begun: str, found: list[str]) -> None:
        completion = ShellComplete(cli, {}, "bnfold", "_BNFOLD_COMPLETE")
        assert [item.value for item in completion.get_completions(words, begun)] == found


class TestErrors:
    def test_an_unknown_command_names_the_nearest(self) -> None:
        outcome = run("analyse", "x.onnx")
        assert outcome.code == 2
        assert "There is no command 'analyse'. Did you mean 'analyze'?" in outcome.err

    def test_no_arguments(self) -> None:
        outcome = run("analyze")
        assert outcome.code == 2
        assert "Missing argument 'MODEL...'" in outcome.err

    def test_a_missing_file(self) -> None:
        outcome = run("fold", "nowhere.onnx", "--dry-run")
        assert outcome.code == 2
        assert outcome.err.startswith("bnfold: nowhere.onnx")
        assert outcome.err.count("\n") == 1
        assert "Traceback" not in outcome.err

    def test_an_internal_error_asks_to_report_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("division by zero")

        monkeypatch.setattr(bnfold.api, "fold", broken)
        monkeypatch.delenv("BNFOLD_DEBUG", raising=False)
        outcome = run("fold", CNN, "--dry-run")
        assert outcome.code == 3
        assert outcome.err.startswith("bnfold: internal error (ZeroDivisionError: division by zero); please report it")
        assert outcome.err.count("\n") == 1
        monkeypatch.setenv("BNFOLD_DEBUG", "1")
        assert "Traceback" in run("fold", CNN, "--dry-run").err

    def test_an_interruption(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(bnfold.api, "fold", interrupted)
        assert run("fold", CNN, "--dry-run").code == 130

    def test_a_reader_that_has_enough(self) -> None:
        """The output goes to a program that stops reading, as in ``bnfold rules | head -1``."""
        command = f"set -o pipefail; {sys.executable} -m bnfold rules --format json | head -c 1"
        done = subprocess.run(["bash", "-c", command], capture_output=True, check=False, text=True, timeout=120)
        assert (done.returncode, done.stdout, done.stderr) == (0, "{", "")

    @pytest.mark.parametrize("arguments", ["rules BN201", "rules", "analyze {}", "fold {} --dry-run", "--help"])
    def test_a_reader_that_left_before_the_first_line(self, arguments: str) -> None:
        """rich ends the process with an error in that case, and ``| head -1`` under pipefail fails."""
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "bnfold", *arguments.format(CNN).split()]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
    @pytest.mark.parametrize("arguments", ["--help", "rules", "analyze {}", "analyze {} --format json"])
    def test_an_output_that_is_full(self, arguments: str) -> None:
        command = [sys.executable, "-m", "bnfold", *arguments.format(CNN).split()]
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
        assert done.returncode == 2
        assert done.stderr == "bnfold: the output cannot be read or written: No space left on device\n"

    def test_an_interruption_during_start_up(self, tmp_path: Path) -> None:
        """An import that is interrupted would show the traceback of whatever was being imported."""
        (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
        paths = os.pathsep.join([str(tmp_path), str(Path(bnfold.__file__).parents[1])])
        done = process("--help", PYTHONPATH=paths)
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "")

    def test_json_even_for_an_error(self, tmp_path: Path) -> None:
        output = str(tmp_path / "out.onnx")
        for arguments in (
            ("fold", "no.onnx", "-o", output), ("fix", "no.onnx", "-o", output), ("fold", str(CNN)),
            ("verify", "no.onnx", str(CNN)), ("rules", "BN999"), ("analyze", str(CNN), "--select=X"),
        ):  # fmt: skip
            outcome = run(*arguments, "--format", "json")
            assert outcome.code == 2
            (error,) = json.loads(outcome.out)["errors"]
            assert " ".join(error["message"].split()) in " ".join(outcome.err.split())
            assert error["model"] == (arguments[1] if arguments[0] in ("fold", "fix") else None)

    def test_no_json_unless_asked_for(self, tmp_path: Path) -> None:
        assert run("fold", "no.onnx", "-o", tmp_path / "out.onnx").out == ""

    def test_an_encoding_without_arrows(self) -> None:
        done = process("analyze", str(CNN), PYTHONIOENCODING="ascii", PYTHONUTF8="0")
        assert done.returncode == 0
        assert "Conv \\u2192 BN \\u2192 Relu" in done.stdout


class TestTerminal:
    def test_no_escape_sequences_in_a_pipe(self) -> None:
        assert "\x1b" not in process("analyze", str(CNN), TERM="xterm-256color").stdout

    def test_completion(self) -> None:
        done = process(_BNFOLD_COMPLETE="bash_source")
        assert "_BNFOLD_COMPLETE=bash_complete" in done.stdout
        done = process(_BNFOLD_COMPLETE="bash_complete", COMP_WORDS="bnfold an", COMP_CWORD="1")
        assert done.stdout == "plain,analyze\n"


class TestBadFiles:
    """Whatever a file is, each command says in one sentence what is wrong with it and writes nothing."""

    CONTENTS: ClassVar[dict[str, bytes]] = {
        "empty.onnx": b"",
        "text.onnx": b"# My model\n\nIt finds faces.\n" * 20,
        "truncated.onnx": CNN.read_bytes()[:-1000],
        "zeros.onnx": bytes(1000),
        "escapes \x1b[31m.onnx": b"no",
    }

    @pytest.fixture(params=[*CONTENTS, "missing.onnx", "folder.onnx", "unchecked.onnx"])
    def bad(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        path = tmp_path / request.param
        if request.param == "folder.onnx":
            path.mkdir()
        elif request.param == "unchecked.onnx":
            model = onnx.load(CNN)
            model.graph.node[0].input[0] = "nobody_computes_this"
            path.write_bytes(model.SerializeToString())
        elif request.param in self.CONTENTS:
            path.write_bytes(self.CONTENTS[request.param])
        return path

    @pytest.mark.parametrize("command", ["analyze", "fold", "fix", "verify"])
    def test_one_sentence_and_exit_code_2(self, bad: Path, command: str) -> None:
        out = bad.parent / "out.onnx"
        extra = ("-o", out) if command in ("fold", "fix") else (CNN,) if command == "verify" else ()
        outcome = run(command, bad, *extra)
        assert outcome.code == 2
        assert outcome.err.startswith("bnfold: ")
        assert outcome.err.count("\n") == 1
        assert "\x1b" not in outcome.err + outcome.out
        assert bad.name.split()[0].split(".")[0] in outcome.err
        assert not out.exists()


class TestSpinner:
    def test_it_shows_the_stage_after_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from bnfold.cli.spinner import Spinner

        sink = Terminal()
        monkeypatch.setattr(sys, "stderr", sink)
        monkeypatch.setenv("TERM", "xterm")
        with Spinner(patience=0.0) as spinner:
            spinner.stage("folding")
            deadline = time.monotonic() + 10
            while "folding" not in sink.getvalue() and time.monotonic() < deadline:
                time.sleep(0.01)
        assert "folding" in sink.getvalue()

    def test_nothing_for_work_that_is_soon_done(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sink = Terminal()
        monkeypatch.setattr(sys, "stderr", sink)
        with options.progress() as progress:
            progress("folding")
        assert sink.getvalue() == ""

    def test_nothing_without_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(options, "_PATIENCE", 0.0)
        with options.progress() as progress:
            progress("folding")
            assert "bnfold.cli.spinner" not in repr(progress)


class Terminal(io.StringIO):
    """A file that says it is one."""

    def isatty(self) -> bool:
        return True


def test_an_experiment_without_keras_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = backend.importlib.util.find_spec
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None if name == "keras" else found(name))
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    store = tmp_path / "store.sqlite"
    outcome = run("experiment", "m.keras", "--data", "d.npz", "--epochs", "1", "--store", store)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("bnfold: Keras models need keras")
    assert not store.exists()


@pytest.mark.keras
def test_a_keras_model_without_the_noise_of_tensorflow() -> None:
    done = process("analyze", str(SAMPLES / "mlp_bn_before.keras"))
    assert done.returncode == 0
    assert done.stderr == ""
    assert (
        "bn_1                      64  Dense → BN → tanh     before activation  folds backward into dense_1"
        in done.stdout
    )
