"""The fork server, in its own process: it imports what jobs need, and forks itself for each.

A client sends one byte with two sockets for each job. The forked process reads the request from the first and writes
its rows and its answer there; on the second the server reports, when that process has ended, how it did. Closing the
second asks for the end of the job, and closing the connection for the end of everything.

The server has one thread, and nothing it preloads may start another: a fork has only the thread that called it.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import selectors
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bnfold.isolation import answer, end_in_time
from bnfold.temporary import temporary_name

#: Before every message: its kind and its length.
HEADER = struct.Struct("<cQ")
REPORT, ROW, ANSWER = b"r", b"w", b"a"
#: What the environment of a job has of its own: where it may write, and the threads that a fork has not.
_OWN = ("TMPDIR", "TEMP", "TMP", "OPENBLAS_NUM_THREADS")
#: So much of what a job prints is kept.
PRINTED_BYTES = 4000

#: Where a job's rows go; set in the process of a job alone.
_rows: socket.socket | None = None


def emit(row: Any) -> None:
    """Called by a job: hand over a row (anything that can be pickled) before the job is done.

    Outside of a job of this package nothing happens.
    """
    if _rows is not None:
        send(_rows, ROW, pickle.dumps(row))


def send(sock: socket.socket, kind: bytes, content: bytes) -> None:
    sock.sendall(HEADER.pack(kind, len(content)) + content)


@dataclass(slots=True)
class _Child:
    pid: int
    control: socket.socket
    folder: str
    printed: int
    started: float
    killed_before: int


class Server:
    """Forks for whoever holds the other end of ``connection``."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._children: dict[int, _Child] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ)
        self._wake, wake = socket.socketpair()
        for end in (self._wake, wake):
            end.setblocking(False)
        self._waker = wake
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._wake, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve until the client is gone; then no job is left."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._wake:
                    with suppress(BlockingIOError):
                        self._wake.recv(4096)
                elif key.fileobj is not self._connection:
                    _kill(key.data)  # whoever waited for it does so no more
                    self._selector.unregister(key.fileobj)
                elif not self._accept():
                    self._end()
                    return
            self._reap()

    def _accept(self) -> bool:
        message, handles, _, _ = socket.recv_fds(self._connection, 1, 2)
        if not message:
            return False
        request, control = (socket.socket(fileno=handle) for handle in handles)
        folder = os.path.join(tempfile.gettempdir(), temporary_name())
        os.mkdir(folder, 0o700)
        printed = os.memfd_create("printed")
        killed = _killed_by_system()
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            self._become_job(request, folder, printed, parent)
        request.close()
        self._children[pid] = _Child(pid, control, folder, printed, time.monotonic(), killed)
        self._selector.register(control, selectors.EVENT_READ, pid)
        return True

    def _become_job(self, request: socket.socket, folder: str, printed: int, parent: int) -> None:
        """In the forked process: let go of what is the server's, do the job, and end."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for sock in (self._connection, self._wake, self._waker, *(child.control for child in self._children.values())):
            sock.close()
        self._selector.close()
        os.setsid()
        for number in (1, 2):
            os.dup2(printed, number)
        os.environ.update(dict.fromkeys(_OWN[:3], folder))
        tempfile.tempdir = folder
        do_job(request, parent)

    def _reap(self) -> None:
        """Report every process that has ended."""
        for pid in list(self._children):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            _kill(pid)  # what it has started; its number stays its own until it is waited for
            _, status, usage = os.wait4(pid, 0)
            child = self._children.pop(pid)
            with suppress(KeyError):
                self._selector.unregister(child.control)
            shutil.rmtree(child.folder, ignore_errors=True)
            report = (
                os.waitstatus_to_exitcode(status),
                time.monotonic() - child.started,
                usage.ru_maxrss * 1024,
                _tail(child.printed),
                _killed_by_system() > child.killed_before,
            )
            with suppress(OSError):
                send(child.control, REPORT, pickle.dumps(report))
            child.control.close()

    def _end(self) -> None:
        for pid, child in self._children.items():
            _kill(pid)
            os.waitpid(pid, 0)
            shutil.rmtree(child.folder, ignore_errors=True)


def do_job(request: socket.socket, parent: int) -> None:
    """Read a request, do it, send the answer, and end without the libraries' own cleaning up."""
    global _rows
    stream = request.makefile("rb")
    seconds, memory, around = pickle.load(stream)
    end_in_time(seconds, parent)
    _move(*around)
    _rows = request
    send(request, ANSWER, answer(stream, memory, "RLIMIT_DATA"))
    os._exit(0)


def _move(path: list[str], folder: str | None, environment: dict[str, str]) -> None:
    """To where the client is now: the server may have been started long ago, in another folder."""
    sys.path[:] = path
    if folder is not None:
        with suppress(OSError):  # it may be gone by now, and the job may not need it
            os.chdir(folder)
    own = {name: os.environ[name] for name in _OWN if name in os.environ}
    os.environ.clear()
    os.environ.update(environment | own)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # it may not have come to lead a group yet


def _tail(printed: int) -> str:
    """The end of what was printed. Closes the file."""
    size = os.fstat(printed).st_size
    data = os.pread(printed, PRINTED_BYTES, max(0, size - PRINTED_BYTES))
    os.close(printed)
    return data.decode(errors="replace")


def _killed_by_system() -> int:
    """How many processes Linux has killed so far to get memory back."""
    with suppress(OSError), open("/proc/vmstat", "rb") as file:
        for line in file:
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
    return 0


def main() -> None:
    """``python -c … FD MODULE…``: the server's process."""
    connection = socket.socket(fileno=int(sys.argv[2]))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()  # a signal from the terminal is for the client, who will end all of this
    connection.setblocking(True)
    for module in sys.argv[3:]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # or each fork would copy every object's page to count its references
    connection.sendall(b"!")
    Server(connection).run()
    os._exit(0)
