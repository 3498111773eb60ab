"""A random model, damaged: one to three changes at one of three levels."""

from __future__ import annotations

import random

from graph_damage import MEANING
from wire_damage import BYTES, WIRE

#: Bytes are soon refused; what is still a graph goes deepest.
LEVELS = (BYTES, WIRE, MEANING, MEANING)


def mutate(rng: random.Random, models: list[bytes]) -> bytes:
    """One of ``models``, damaged. The same state of ``rng`` gives the same bytes."""
    data = rng.choice(models)
    level = rng.choice(LEVELS)
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(level)(rng, data, rng.choice(models))
    return data
