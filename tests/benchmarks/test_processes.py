"""A process's cost is its own, and a process that does not end is ended."""

from __future__ import annotations

import sys

from harness.processes import Run, run

_ALLOCATE = "x = bytearray({}); x[::4096] = b'1' * len(x[::4096])"


def python(code: str, timeout: float = 60.0, environment: dict[str, str] | None = None) -> Run:
    return run([sys.executable, "-c", code], timeout=timeout, environment=environment)


def test_peak_memory_is_the_childs_and_not_the_parents() -> None:
    ballast = bytearray(150_000_000)
    ballast[::4096] = b"1" * len(ballast[::4096])
    assert python("pass").peak < 50_000_000
    assert python(_ALLOCATE.format(100_000_000)).peak > 100_000_000


def test_time_is_wall_and_processor_time() -> None:
    asleep = python("import time; time.sleep(0.3)")
    assert asleep.wall > 0.3
    assert asleep.cpu < asleep.wall
    assert not asleep.fault


def test_what_fails_is_told_by_its_last_line_without_directories() -> None:
    failed = python("raise OSError('no such file: /some/where/deep/model.onnx')")
    assert failed.status == 1
    assert failed.fault == "OSError: no such file: model.onnx"
    assert python("import sys; sys.exit(3)").fault == "exit status 3"


def test_what_does_not_end_is_stopped_with_its_children() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    stopped = python(code, timeout=0.5)
    assert stopped.timed_out
    assert stopped.wall < 10
    assert stopped.fault == f"stopped after {stopped.wall:.0f} s"


def test_the_environment_is_added_to() -> None:
    done = python("import os; print(os.environ['ONE'], 'PATH' in os.environ)", environment={"ONE": "1"})
    assert done.output.split() == ["1", "True"]
