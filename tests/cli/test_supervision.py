"""--timeout and --memory hold for whole commands, whatever hangs or fails in them."""

from __future__ import annotations

import json
import sys
import time

import pytest
from command_line import SAMPLES, bnfold

from bnfold.cli import supervision
from bnfold.errors import LimitError
from bnfold.isolation import Limits

CNN = SAMPLES / "digits_cnn.onnx"


def test_a_command_without_anything_to_verify_is_limited_too(tmp_path, monkeypatch):
    monkeypatch.setattr(supervision, "_GRACE", 0.0)
    monkeypatch.setattr(supervision, "_CHILD", "import time; time.sleep(600)")
    outcome = bnfold("fold", CNN, "-o", tmp_path / "a.onnx", "--no-verify", "--timeout", "0.5", "--format", "json")
    assert (outcome.code, outcome.err) == (1, "bnfold: the time limit of 0.5 s was reached\n")
    assert json.loads(outcome.out)["errors"][0]["message"] == "the time limit of 0.5 s was reached"
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_heed_the_request_to_end_is_killed(monkeypatch):
    monkeypatch.setattr(supervision, "_GRACE", 0.0)
    monkeypatch.setattr(supervision, "_PATIENCE", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    monkeypatch.setattr(supervision, "_CHILD", deaf)
    started = time.monotonic()
    with pytest.raises(LimitError, match="the time limit of 1 s was reached"):
        supervision.supervise([], Limits(seconds=1))
    assert time.monotonic() - started < 300


@pytest.mark.parametrize(
    ("end", "memory", "words"),
    [
        ("os._exit(4)", 10**9, "the process failed within the memory limit of 1,000 MB"),
        ("os.kill(os.getpid(), 11)", 10**9, "the process failed within the memory limit of 1,000 MB"),
        ("os.kill(os.getpid(), 11)", None, r"the command crashed \(SIGSEGV\)"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_how_a_command_can_end(monkeypatch, end, memory, words):
    monkeypatch.setattr(supervision, "_CHILD", f"import os; {end}")
    with pytest.raises(LimitError, match=words):
        supervision.supervise([], Limits(seconds=60, memory=memory))


@pytest.mark.parametrize("arguments", [["fold", CNN, "--dry-run"], ["verify", CNN, CNN]])
def test_what_keeps_within_its_limits_is_as_without_them(arguments):
    free = bnfold(*arguments)
    limited = bnfold(*arguments, "--timeout", "600", "--memory", "16000")
    assert limited.code == free.code == 0
    assert [line for line in limited.out.splitlines() if " s, " not in line] == [
        line for line in free.out.splitlines() if " s, " not in line
    ]


def test_reading_is_limited(tmp_path):
    """The libraries that read a model do not fit."""
    outcome = bnfold("fold", CNN, "-o", tmp_path / "a.onnx", "--no-verify", "--memory", "60")
    assert outcome.code == 1
    assert outcome.err.endswith("bnfold: the process failed within the memory limit of 60 MB\n")
    assert list(tmp_path.iterdir()) == []
