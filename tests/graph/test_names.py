"""New names: never one that is taken, whichever was given out before."""

from __future__ import annotations

from bnfold.graph.names import Names


def test_a_free_name_is_given_once() -> None:
    names = Names(["a", "b"], {"b_2": None})
    assert [names.fresh(stem) for stem in ("new", "new", "a", "b", "b")] == ["new", "new_2", "a_2", "b_3", "b_4"]


def test_a_number_that_another_stem_took_is_left_out() -> None:
    names = Names(["x"])
    assert [names.fresh(stem) for stem in ("x_2", "x", "x")] == ["x_2", "x_3", "x_4"]
