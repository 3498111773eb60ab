"""Sizes for open dimensions."""

from __future__ import annotations

import itertools

import numpy as np

from bnfold.verification.feeds.hints import Hint
from bnfold.verification.feeds.sizes import OpenDims, open_dims
from bnfold.verification.runtime.sessions import ValueSpec


def spec(name, *shape, rank_known=True):
    return ValueSpec(name, "tensor(float)", "tensor", np.dtype("float32"), shape if rank_known else None)


def dims(*specs, hints=None):
    return next(open_dims(specs, {item.name: (hints or {}).get(item.name, Hint()) for item in specs}))


def test_fixed_sizes_are_the_only_choice():
    found = dims(spec("x", 1, 3, 8, 8))
    (only,) = found.first_choices()
    assert only.shapes == {"x": (1, 3, 8, 8)}
    assert only.label == "fixed size"
    assert not list(found.variations(only))


def test_the_batch_is_one_first_and_then_larger():
    found = dims(spec("x", "N", 4))
    first = next(found.first_choices())
    assert first.shapes == {"x": (1, 4)}
    assert [item.shapes["x"][0] for item in found.variations(first)] == [2, 3]
    assert {item.shapes["x"][0] for item in found.first_choices()} >= {1, 2, 4, 8}


def test_symbols_have_one_size_wherever_they_stand():
    found = dims(spec("x", "N", "L"), spec("mask", "N", 1, "L", "L"), spec("y", "L", "N"))
    for item in itertools.chain(found.first_choices(), found.variations(next(found.first_choices()))):
        batch, length = item.shapes["x"]
        assert item.shapes["mask"] == (batch, 1, length, length)


def test_a_symbol_may_be_the_sum_of_two_others():
    found = dims(spec("x", "B", "S"), spec("past", "B", "P"), spec("mask", "B", "P + S"))
    first = next(found.first_choices())
    for item in (first, *found.variations(first)):
        assert item.shapes["mask"][1] == item.shapes["x"][1] + item.shapes["past"][1]


def test_what_looks_like_a_sum_of_unknowns_is_a_symbol():
    first = next(dims(spec("x", "B", "P + Q")).first_choices())
    assert first.shapes["x"] == (1, 8)


def test_unnamed_dimensions_share_the_batch_and_nothing_else():
    found = dims(spec("x", None, None, None, 3), spec("y", None, 2))
    first = next(found.first_choices())
    assert first.shapes == {"x": (1, 64, 64, 3), "y": (1, 2)}
    variations = list(found.variations(first))
    assert any(item.shapes["x"][1] != item.shapes["x"][2] for item in variations)
    assert all(item.shapes["x"][0] == item.shapes["y"][0] for item in variations)


def test_weights_fill_in_what_is_open():
    found = dims(spec("x", None, None, None, None), hints={"x": Hint(dims={1: 6})})
    assert next(found.first_choices()).shapes["x"] == (1, 6, 64, 64)
    found = dims(spec("x", None, "L", None), hints={"x": Hint(dims={-1: 5})})
    assert next(found.first_choices()).shapes["x"] == (1, 8, 5)


def test_an_unknown_rank_is_the_weights_or_tried():
    fixed = list(open_dims([spec("x", rank_known=False)], {"x": Hint(rank=3)}))
    assert [next(item.first_choices()).shapes["x"] for item in fixed] == [(1, 8, 8)]
    tried = list(open_dims([spec("x", rank_known=False)], {"x": Hint()}))
    assert {len(next(item.first_choices()).shapes["x"]) for item in tried} == {0, 1, 2, 3, 4, 5}


def test_sizes_that_networks_bake_in_are_among_the_choices():
    tried = {item.shapes["x"][2] for item in OpenDims([spec("x", 1, 3, "H", "W")], {"x": Hint()}).first_choices()}
    assert tried >= {224, 299, 128, 32, 28, 8, 1}


def test_nothing_is_made_larger_than_memory_allows():
    assert not list(dims(spec("x", 1, 100_000, 100_000)).first_choices())
    assert not list(dims(spec("x", "N", 100_000, 10_000)).first_choices())
    sizes = [item.shapes["x"] for item in dims(spec("x", 1, 64, "D", "H", "W")).first_choices()]
    assert sizes
    assert max(np.prod(shape) for shape in sizes) <= 1 << 24
