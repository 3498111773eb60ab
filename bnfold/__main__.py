"""``python -m bnfold`` and the script ``bnfold`` are the command line."""

from __future__ import annotations

import os
import signal


def start() -> None:
    """Run the command line. Ctrl-C ends it without a traceback while it is still being imported, too."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    from bnfold.cli import main

    signal.signal(signal.SIGINT, usual)
    main()


if __name__ == "__main__":
    start()
