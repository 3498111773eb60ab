"""Moves: two that are carried out at once."""

from __future__ import annotations

import numpy as np

from bnfold.affine import Affine
from bnfold.folding.moves import Move
from bnfold.graph import Param, Use
from bnfold.operators.answers import NewAffine, NewWeights

AFFINE, WEIGHTS = NewAffine(Affine.identity()), NewWeights()


def test_two_moves_as_one():
    constant = Param.of("k", np.ones(1))
    first = Move(
        rewrites={"a": AFFINE}, changed={"s": None, "t": None}, targets=["a"], through=["r"], asked={"a", "r"}, added=1
    )
    second = Move(
        rewrites={"b": WEIGHTS}, constants={Use("c", 1): constant}, changed={"t": None}, targets=["b"],
        through=["r", "q"], asked={"b"}, added=2,
    )  # fmt: skip
    both = first.joined(second)
    assert both.rewrites == {"a": AFFINE, "b": WEIGHTS}
    assert both.constants == {Use("c", 1): constant}
    assert list(both.changed) == ["s", "t"]
    assert (both.targets, both.through) == (["a", "b"], ["r", "q"]), "each once"
    assert both.asked == {"a", "r", "b"}
    assert both.added == 3
    assert first.only_affines
    assert not both.only_affines
    assert (first.targets, second.added) == (["a"], 2), "the two stay as they are"
