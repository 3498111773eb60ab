"""A function in a process of its own: what comes back, what ends it, and that nothing is left of it."""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from bnfold.errors import UsageError
from bnfold.isolation import Cause, Ended, Limits, Returned, answer, call, run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
posix = pytest.mark.skipif(os.name != "posix", reason="signals and process groups are POSIX's")


def add(a: object, b: object = 1) -> object:
    return a + b  # type: ignore[operator]


def where_am_i() -> tuple[int, int, str, str]:
    return os.getpid(), os.getpgid(0), os.getcwd(), tempfile.gettempdir()


def caused() -> None:
    raise UsageError("said") from ValueError("of a library")


def shout() -> str:
    print("to Python's standard output")
    os.write(1, b"to the standard output below Python's")
    os.write(2, b"to the standard error")
    return "said"


def fails(kind: type[Exception]) -> None:
    raise kind("so it is")


def eats(count: int) -> int:
    return len(bytearray(count))


def dies(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def leaves_early(code: int) -> None:
    os.write(2, b"these were its last words")
    os._exit(code)


def hangs(note: Path, with_child: bool) -> None:
    """Writes its own number and that of a child into a file, and then does nothing for a long time."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) if with_child else None
    Path(tempfile.gettempdir(), "left over").write_text("x")
    note.with_suffix(".part").write_text(f"{os.getpid()} {child.pid if child else os.getpid()} {tempfile.gettempdir()}")
    note.with_suffix(".part").rename(note)
    time.sleep(600)


def returns_with_a_child() -> int:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid


def alive(pid: int) -> bool:
    """Is there such a process, other than one that only waits for its parent to notice?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def gone(pid: int) -> bool:
    for _ in range(400):
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


def test_values_go_there_and_come_back() -> None:
    assert run(add, Limits(), 1, b=2) == Returned(3)
    outcome = run(add, Limits(seconds=60, memory=4 << 30), np.arange(3), b=np.float32(0.5))
    assert isinstance(outcome, Returned)
    np.testing.assert_array_equal(outcome.value, [0.5, 1.5, 2.5])


def test_it_runs_here_where_nothing_is_limited_and_else_in_a_process_of_its_own() -> None:
    here = where_am_i()
    assert call(where_am_i, Limits()) == Returned(here)
    outcome = call(where_am_i, Limits(seconds=60))
    assert isinstance(outcome, Returned)
    pid, group, folder, temporary = outcome.value
    assert pid == group != here[0]
    assert group != here[1]
    assert folder == here[2]
    assert temporary != here[3]
    assert not Path(temporary).exists()


def test_what_is_printed_does_not_get_into_the_reply() -> None:
    assert run(shout, Limits()) == Returned("said")


def test_errors_for_users_come_back_as_they_are() -> None:
    with pytest.raises(UsageError, match=r"^so it is$"):
        run(fails, Limits(), UsageError)


def test_causes_do_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """tblib, which comes with Dask, has them pickled: whoever reads one imports the library that raised it."""

    def with_cause(error: UsageError) -> tuple[type[UsageError], tuple[object, ...]]:
        return UsageError, (f"{error.args[0]} from {error.__cause__!r} in {error.__context__!r}",)

    monkeypatch.setitem(copyreg.dispatch_table, UsageError, with_cause)
    request = io.BytesIO(pickle.dumps((caused, (), {})))
    kind, error = pickle.loads(answer(request, None))
    assert (kind, str(error)) == ("raised", "said from None in None")


def test_mistakes_come_back_with_their_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)in fails.*KeyError: 'so it is'"):
        run(fails, Limits(), KeyError)
    with pytest.raises(RuntimeError, match="ended with code 7 and no reply:\nthese were its last words"):
        run(leaves_early, Limits(), 7)
    with pytest.raises(RuntimeError, match="cannot pickle"):
        run(threading.Lock, Limits())  # what it returns cannot be pickled


def test_the_time_limit(tmp_path: Path) -> None:
    outcome = run(hangs, Limits(seconds=2.5), tmp_path / "note", False)
    assert isinstance(outcome, Ended)
    assert outcome.cause is Cause.TIMEOUT
    assert outcome.sentence() == "the time limit of 2.5 s was reached"


def test_several_runs_share_a_deadline() -> None:
    limits = Limits(seconds=0.05)
    assert limits.left() is not None
    time.sleep(0.06)
    outcome = run(add, limits, 1)
    assert isinstance(outcome, Ended)
    assert outcome.cause is Cause.TIMEOUT
    assert Limits().left() is None
    assert not Limits()
    assert Limits(seconds=0)


@posix
def test_the_memory_limit() -> None:
    limits = Limits(memory=2 << 30)
    outcome = run(eats, limits, 8 << 30)
    assert isinstance(outcome, Ended)
    assert outcome.cause is Cause.MEMORY
    assert outcome.sentence() == "the process failed within the memory limit of 2,147 MB"
    assert run(eats, limits, 1 << 20) == Returned(1 << 20)


def test_memory_that_is_not_there_is_no_mistake() -> None:
    outcome = run(fails, Limits(), MemoryError)
    assert isinstance(outcome, Ended)
    assert outcome.cause is Cause.MEMORY
    assert outcome.sentence() == "there is not enough memory"


@posix
@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (signal.SIGSEGV, Cause.CRASH),
        (signal.SIGABRT, Cause.CRASH),
        (signal.SIGTERM, Cause.INTERRUPTED),
        (signal.SIGINT, Cause.INTERRUPTED),
        (signal.SIGKILL, Cause.INTERRUPTED),
    ],
)
def test_signals(number: signal.Signals, cause: Cause) -> None:
    outcome = run(dies, Limits(), number)
    assert isinstance(outcome, Ended)
    assert (outcome.cause, outcome.signal) == (cause, number)
    assert number.name in outcome.sentence("the library")
    assert ("the library crashed" in outcome.sentence("the library")) == (cause is Cause.CRASH)


@posix
def test_a_crash_within_a_memory_limit_may_be_its_doing() -> None:
    outcome = run(dies, Limits(memory=8 << 30), signal.SIGABRT)
    assert isinstance(outcome, Ended)
    assert outcome.cause is Cause.MEMORY


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
class TestNothingIsLeft:
    def test_of_a_function_that_returned(self) -> None:
        outcome = run(returns_with_a_child, Limits())
        assert isinstance(outcome, Returned)
        assert gone(outcome.value)

    def test_of_a_function_that_took_too_long(self, tmp_path: Path) -> None:
        note = tmp_path / "note"
        assert isinstance(run(hangs, Limits(seconds=5), note, True), Ended)
        first, second, folder = note.read_text().split(maxsplit=2)
        assert gone(int(first))
        assert gone(int(second))
        assert not Path(folder).exists()
        with pytest.raises(ChildProcessError):
            os.waitpid(int(first), os.WNOHANG)  # no zombie: it has been waited for

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_of_a_caller_that_was_ended(self, tmp_path: Path, number: signal.Signals) -> None:
        """SIGTERM as the command line takes it: as an exit. The child is ended even with a parent that is killed."""
        note, temporary = tmp_path / "note", tmp_path / "temporary"
        temporary.mkdir()
        code = (
            "import signal, sys\n"
            "from pathlib import Path\n"
            "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            f"sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
            "import test_isolation\n"
            "from bnfold.isolation import Limits, run\n"
            f"run(test_isolation.hangs, Limits(), Path({str(note)!r}), {number != signal.SIGKILL})\n"
        )
        caller = subprocess.Popen(
            [sys.executable, "-c", code], stderr=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(temporary)}
        )
        for _ in range(1200):
            if note.exists():
                break
            time.sleep(0.05)
        first, second, _ = note.read_text().split(maxsplit=2)
        assert alive(int(first))
        caller.send_signal(number)
        caller.wait(60)
        assert gone(int(first))
        assert gone(int(second))
        if number != signal.SIGKILL:
            assert list(temporary.iterdir()) == []


def test_several_threads_at_once() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda n: run(add, Limits(seconds=60), n), range(4))) == [
            Returned(n + 1) for n in range(4)
        ]


def test_modules_in_the_working_directory_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pickle.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert run(add, Limits(), 1) == Returned(2)
