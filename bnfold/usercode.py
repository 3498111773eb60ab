"""Modules of the user's own, named on the command line."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType


def import_user_module(name: str) -> ModuleType:
    """The module ``name``, from the working directory first, as ``python -m`` finds it. Raises whatever it raises.

    What it imports later on is found there too, but after everything that is installed.
    """
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)
