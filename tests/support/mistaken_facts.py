"""Facts with a mistake, for one operator of a model: what verification has to notice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bnfold.graph import Param
from bnfold.operators.answers import NewWeights
from bnfold.operators.linear import LinearFacts


@contextmanager
def mistaken_about(holder: str) -> Iterator[None]:
    """Every constant that the linear operator of that name takes something into is one part in a hundred too large."""
    with pytest.MonkeyPatch.context() as patch:
        for question in ("absorb_output", "absorb_input"):
            patch.setattr(LinearFacts, question, _mistaken(getattr(LinearFacts, question), holder))
        yield


def _mistaken(method: Any, holder: str) -> Any:
    def faulty(self: Any, node: Any, *arguments: Any) -> Any:
        answer = method(self, node, *arguments)
        if node.op.name != holder or not isinstance(answer, NewWeights):
            return answer
        wrong = {
            slot: part.scaled(np.full((1,) * len(part.shape), 1.01)) if isinstance(part, Param) else part
            for slot, part in answer.inputs.items()
        }
        return replace(answer, inputs=wrong)

    return faulty
