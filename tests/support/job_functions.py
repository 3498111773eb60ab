"""What the tests of the jobs room have done in other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bnfold.jobs import emit


def add(a: Any, b: Any = 1) -> Any:
    return a + b


def nothing() -> None:
    pass


def whoami() -> tuple[int, int, int]:
    return os.getpid(), os.getppid(), os.getpgid(0)


def imported(name: str) -> bool:
    return name in sys.modules


def fails(kind: type[Exception], words: str) -> None:
    raise kind(words)


def eats(count: int) -> int:
    return len(bytearray(count))


def aborts_for_memory() -> None:
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'")
    os.abort()


def dies(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def leaves(code: int) -> None:
    os.write(2, b"last words")
    os._exit(code)


def hangs(note: str) -> None:
    """Leaves its own number and that of a child, which outlives it if nobody takes care."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(note + ".part").write_text(f"{os.getpid()} {child.pid} {os.environ['TMPDIR']}")
    os.rename(note + ".part", note)
    time.sleep(600)


def dies_the_first_time(note: str) -> str:
    if not Path(note).exists():
        Path(note).write_text("I was here")
        os.abort()
    return "done"


def emits(count: int) -> str:
    print("this is no row")
    for number in range(count):
        emit({"epoch": number})
    return "done"


def emits_and_dies(count: int) -> None:
    emits(count)
    os.abort()


def naps(seconds: float) -> None:
    time.sleep(seconds)


def kills_the_worker() -> None:
    """The parent of this process is the fork server, whose parent is the worker."""
    server = os.getppid()
    worker = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(worker, 9)
    time.sleep(60)
