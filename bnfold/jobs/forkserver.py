"""The client of a fork server: run a function in a process that costs a fork, and learn how it ended."""

from __future__ import annotations

import atexit
import json
import os
import pickle
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from signal import Signals
from typing import Any

from bnfold.errors import BnfoldError
from bnfold.isolation import Cause, Ended, Limits, Returned, search_path
from bnfold.isolation import run as run_in_interpreter
from bnfold.jobs.outcome import JobLimits, Outcome, Status
from bnfold.jobs.serving import ANSWER, HEADER, REPORT, ROW

_SERVER = (
    "import json, sys\n"
    "sys.path[:] = json.loads(sys.argv[1])\n"
    "from bnfold.jobs.serving import main\n"
    "main()\n"
)  # fmt: skip
#: What libraries say when an allocation fails, in an exception or as their last words.
_NO_MEMORY = ("bad_alloc", "MemoryError", "Failed to allocate", "annot allocate memory", "out of memory")
#: So long a process may live on after its own alarm should have ended it, in seconds.
_GRACE = 5.0

OnRow = Callable[[Any], None]


class ServerLostError(Exception):
    """The fork server is gone: nothing is known about the job."""


def supported() -> bool:
    """Are there fork servers here? Elsewhere every job starts an interpreter of its own."""
    return sys.platform == "linux"


class ForkServer:
    """A process that has imported ``preload`` and forks for every job. Any number of threads may use it."""

    def __init__(self, preload: tuple[str, ...] = ()) -> None:
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._lost = False
        self._socket, theirs = socket.socketpair()
        environment = {"OPENBLAS_NUM_THREADS": "1", **os.environ}  # a fork has one thread, and a pool of them hangs
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _SERVER, json.dumps(search_path()), str(theirs.fileno()), *preload],
            pass_fds=(theirs.fileno(),),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        theirs.close()
        if self._socket.recv(1) != b"!":
            words = self._process.stderr.read().decode(errors="replace") if self._process.stderr else ""
            self.close()
            raise RuntimeError(f"the fork server did not start:\n{words}")

    @property
    def usable(self) -> bool:
        """Is it there, and not another process's?"""
        return self._owner == os.getpid() and not self._lost and self._process.poll() is None

    def close(self) -> None:
        """End the server and every job it has."""
        self._lost = True
        self._socket.close()
        if self._owner == os.getpid():
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE)
            self._process.kill()
            self._process.wait()
            if self._process.stderr:
                self._process.stderr.close()

    def run(
        self,
        function: Callable[..., Any],
        limits: JobLimits,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        on_row: OnRow | None = None,
    ) -> Outcome:
        """One attempt. Raises ServerLostError where the server, not the job, has ended."""
        around = (search_path(), _folder(), dict(os.environ))
        request = pickle.dumps((limits.seconds, limits.memory, around))
        request += pickle.dumps((function, args, dict(kwargs or {})))
        ours, theirs = socket.socketpair()
        control, their_control = socket.socketpair()
        with ours, control:
            try:
                with theirs, their_control, self._lock:
                    socket.send_fds(self._socket, [b"j"], [theirs.fileno(), their_control.fileno()])
                with suppress(BrokenPipeError, ConnectionResetError):  # it may be dead before it has read all
                    ours.sendall(request)
                    ours.shutdown(socket.SHUT_WR)
                answer, rows, report = _listen(ours, control, limits, on_row)
            except (OSError, EOFError) as error:
                self._lost = True
                raise ServerLostError from error
        return _outcome(answer, rows, report, limits)


def _folder() -> str | None:
    """The folder that relative paths of now are meant from; None where it is gone."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _listen(
    job: socket.socket, control: socket.socket, limits: JobLimits, on_row: OnRow | None
) -> tuple[Any, tuple[Any, ...], Any]:
    """The answer (None where there is none), the rows, and the server's report (None: it had to be killed)."""
    deadline = None if limits.seconds is None else time.monotonic() + limits.seconds + _GRACE
    messages, ends = _Messages(job), _Messages(control)
    rows: list[Any] = []
    answer = report = None
    poll = select.poll()
    open_sockets = {sock.fileno(): reader for sock, reader in ((job, messages), (control, ends))}
    for number in open_sockets:
        poll.register(number, select.POLLIN)
    while report is None or job.fileno() in open_sockets:
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        ready = poll.poll(left)
        if not ready:
            return answer, tuple(rows), None
        for number, _ in ready:
            received, more = open_sockets[number].receive()
            for kind, content in received:
                if kind == ROW:
                    rows.append(pickle.loads(content))
                    if on_row is not None:
                        on_row(rows[-1])
                elif kind == ANSWER:
                    answer = pickle.loads(content)
                elif kind == REPORT:
                    report = pickle.loads(content)
            if not more:
                poll.unregister(number)
                del open_sockets[number]
                if number == control.fileno() and report is None:
                    raise EOFError
    return answer, tuple(rows), report


class _Messages:
    """Whole messages out of a socket. One that its sender did not come to finish is dropped."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._data = bytearray()

    def receive(self) -> tuple[list[tuple[bytes, bytes]], bool]:
        """What has arrived, and whether more may come."""
        try:
            part = self._socket.recv(1 << 20)
        except ConnectionResetError:
            part = b""
        self._data += part
        found = []
        while len(self._data) >= HEADER.size:
            kind, length = HEADER.unpack_from(self._data)
            end = HEADER.size + length
            if len(self._data) < end:
                break
            found.append((kind, bytes(self._data[HEADER.size : end])))
            del self._data[:end]
        return found, bool(part)


def _outcome(answer: Any, rows: tuple[Any, ...], report: Any, limits: JobLimits) -> Outcome:
    if report is None:
        return Outcome(status=Status.TIMEOUT, sentence=_too_long(limits), seconds=limits.seconds or 0.0, rows=rows)
    code, seconds, peak, printed, killed_by_system = report
    status, value, sentence, detail = Status.CRASHED, None, "", printed
    if answer is not None:
        status, value, sentence, detail = _answered(answer[0], answer[1], limits)
    elif code == -Signals.SIGALRM and limits.seconds is not None:
        status, sentence = Status.TIMEOUT, _too_long(limits)
    elif killed_by_system and code == -Signals.SIGKILL:
        status, sentence = Status.MEMORY, "the system ended the process to get its memory back"
    elif _ran_out(printed, peak, limits):
        status, sentence = Status.MEMORY, _too_much(limits)
    elif code < 0:
        sentence = f"the process was ended by the signal {Signals(-code).name}"
    else:
        sentence = f"the process ended with code {code} and no answer"
    return Outcome(
        status=status, value=value, sentence=sentence, seconds=seconds, peak=peak, rows=rows, detail=detail
    )  # fmt: skip


def _answered(kind: str, content: Any, limits: JobLimits) -> tuple[Status, Any, str, str]:
    if kind == "returned":
        return Status.OK, content, "", ""
    if kind == "memory":
        return Status.MEMORY, None, _too_much(limits), content
    if kind == "raised":
        return Status.FAILED, None, str(content), ""
    last = content.strip().splitlines()[-1]
    if _ran_out(last, 0, limits):
        return Status.MEMORY, None, _too_much(limits), content
    return Status.FAILED, None, f"an error in the job itself: {last}", content


def _ran_out(words: str, peak: int, limits: JobLimits) -> bool:
    """Do the last words, or a resident set near the limit, say that an allocation failed?"""
    near = limits.memory is not None and peak > 0.9 * limits.memory
    return near or any(phrase in words for phrase in _NO_MEMORY)


def _too_long(limits: JobLimits) -> str:
    return f"the time limit of {limits.seconds:g} s was reached"


def _too_much(limits: JobLimits) -> str:
    if limits.memory is None:
        return "there is not enough memory"
    return f"the memory limit of {limits.memory / 1e6:,.0f} MB was reached"


# -- the servers of this process -------------------------------------------------------------------

_servers: dict[tuple[str, ...], ForkServer] = {}
_starting = threading.Lock()


def server(preload: tuple[str, ...]) -> ForkServer:
    """The fork server of this process that has imported ``preload``, started where there is none."""
    with _starting:
        found = _servers.get(preload)
        if found is None or not found.usable:
            found = _servers[preload] = ForkServer(preload)
        return found


@atexit.register
def close_all() -> None:
    """End the servers that this process has started."""
    with _starting:
        for each in _servers.values():
            if each.usable:
                each.close()
        _servers.clear()


def attempt(
    function: Callable[..., Any],
    limits: JobLimits,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    preload: tuple[str, ...] = (),
    on_row: OnRow | None = None,
    stopping: threading.Event | None = None,
) -> Outcome:
    """Run a function once in a process of its own: a fork of a server with ``preload``, or a new interpreter.

    Where the server is ended under it, it is run again by another one, unless that is because all is ``stopping``.
    """
    if not supported():
        return _in_interpreter(function, limits, args, dict(kwargs or {}))
    for _ in range(3):
        if stopping is not None and stopping.is_set():
            break
        try:
            return server(preload).run(function, limits, args, kwargs, on_row)
        except ServerLostError:
            continue
    return Outcome(status=Status.LOST, sentence="the fork server was ended")


def _in_interpreter(
    function: Callable[..., Any], limits: JobLimits, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Outcome:
    started, within = time.monotonic(), Limits(seconds=limits.seconds, memory=limits.memory)
    try:
        ended = run_in_interpreter(function, within, *args, **kwargs)
    except BnfoldError as error:
        status, value, sentence, detail = Status.FAILED, None, str(error), ""
    except RuntimeError as error:
        status, value, sentence, detail = _answered("failed", str(error), limits)
    else:
        status, value, sentence, detail = _translated(ended)
    return Outcome(status=status, value=value, sentence=sentence, detail=detail, seconds=time.monotonic() - started)


def _translated(ended: Returned[Any] | Ended) -> tuple[Status, Any, str, str]:
    if isinstance(ended, Returned):
        return Status.OK, ended.value, "", ""
    found = {Cause.TIMEOUT: Status.TIMEOUT, Cause.MEMORY: Status.MEMORY}.get(ended.cause, Status.CRASHED)
    return found, None, ended.sentence(), ""
