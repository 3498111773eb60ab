"""A short run of ``fuzz_verdicts.py``, and the graphs that it has found faults with."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from fuzz_verdicts import is_valid, model_of, outcome

pytestmark = pytest.mark.slow

FOUND = sorted((Path(__file__).parent / "graphs").glob("*.onnx"))


@pytest.mark.parametrize("batch", range(4))
def test_folds_of_every_opset_and_number_format_are_accepted(batch: int) -> None:
    for index in range(50 * batch, 50 * batch + 50):
        kind, model = model_of(index)
        if is_valid(model):
            verdict, words = outcome(model)
            assert not verdict.isupper(), f"graph {index} ({kind}): {words}"


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_a_graph_that_was_folded_wrong_once(path: Path) -> None:
    verdict, words = outcome(onnx.load(path))
    assert verdict in ("equal", "within rounding", "nothing to fold"), words
