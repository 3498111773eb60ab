"""Run one command as a child of a small process and print, as JSON, what it cost.

    python -I -S launch.py TIMEOUT LOG COMMAND…

A process inherits the peak memory of the one that started it, so a command must not be measured
from a parent that has imported half a gigabyte. This one imports next to nothing. The child's
output goes to the file LOG; its whole process group is killed after TIMEOUT seconds.
"""

import json
import os
import signal
import subprocess
import sys
import time


def launch(timeout: float, log: str, command: list[str]) -> dict[str, object]:
    """``wall`` and ``cpu`` in seconds, ``peak`` resident memory in bytes, ``status``, ``timed_out``."""
    timed_out = False
    with open(log, "wb") as sink:
        started = time.perf_counter()
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )

        def stop(number: int, frame: object) -> None:
            nonlocal timed_out
            timed_out = number == signal.SIGALRM
            os.killpg(child.pid, signal.SIGKILL)

        for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - started
        signal.setitimer(signal.ITIMER_REAL, 0)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * unit,
        "status": os.waitstatus_to_exitcode(status),
        "timed_out": timed_out,
    }


if __name__ == "__main__":
    print(json.dumps(launch(float(sys.argv[1]), sys.argv[2], sys.argv[3:])))
