"""Settings for every test: property-based tests draw the same examples on every run, and the marker ``keras``.

A module or folder with ``keras`` in its name needs Keras, and is not even imported where ``-m "not keras"`` is asked
for: importing TensorFlow takes longer than most tests. Single tests elsewhere carry the marker themselves.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

HERE = Path(__file__).parent
#: Output to no terminal is as wide as it likes, whatever terminal the tests (or pytest-xdist) are run from.
os.environ.pop("COLUMNS", None)

settings.register_profile("fixed", derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("fixed")


def without_keras(config: pytest.Config) -> bool:
    return "not keras" in config.getoption("markexpr")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if without_keras(config) and "keras" in collection_path.name else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "keras" in str(item.path.relative_to(HERE)):
            item.add_marker("keras")


@pytest.fixture(autouse=True)
def _keras_is_marked(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test without the marker leaves TensorFlow alone."""
    before = "tensorflow" in sys.modules
    yield
    if without_keras(request.config):
        assert before or "tensorflow" not in sys.modules, "this test loads TensorFlow: it needs the marker keras"
