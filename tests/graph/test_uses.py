"""Uses against the plain dictionary of dictionaries that it stands for."""

from __future__ import annotations

import random

import pytest

from bnfold.graph.elements import Use
from bnfold.graph.uses import Uses

TENSORS = ("a", "b", "c")
READS = [Use(op, slot) for op in ("p", "q", "r") for slot in (0, 1, None)]


def same(uses: Uses, plain: dict[str, dict[Use, None]]) -> None:
    assert set(uses) == set(plain)
    for tensor in TENSORS:
        expected = list(plain.get(tensor, ()))
        assert list(uses.of(tensor)) == expected
        assert (tensor in uses) == bool(expected)
        assert uses.count(tensor) == len(expected)
        assert uses.sole(tensor) == (expected[0] if len(expected) == 1 else None)


@pytest.mark.parametrize("seed", range(20))
def test_every_change_is_that_of_a_dictionary_of_dictionaries(seed: int) -> None:
    rng, uses, plain = random.Random(seed), Uses(), dict[str, dict[Use, None]]()
    for _ in range(200):
        tensor, use = rng.choice(TENSORS), rng.choice(READS)
        if rng.random() < 0.5:
            uses.add(tensor, use)
            plain.setdefault(tensor, {})[use] = None
        elif tensor in plain:
            uses.drop(tensor, use)
            plain[tensor].pop(use, None)
            if not plain[tensor]:
                del plain[tensor]
        else:
            with pytest.raises(KeyError):
                uses.drop(tensor, use)
        same(uses, plain)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_copy_is_independent(count: int) -> None:
    uses = Uses()
    for use in READS[:count]:
        uses.add("a", use)
    other = uses.copy()
    other.add("a", READS[4])
    other.drop("a", READS[0])
    assert list(uses.of("a")) == READS[:count]
    assert list(other.of("a")) == [*READS[1:count], READS[4]]
