"""Orders: places compare as the order does, however many newcomers there are."""

from __future__ import annotations

import itertools
import random

import pytest

from bnfold.graph import Order


def numbered(count: int) -> Order:
    order = Order()
    for index in range(count):
        order.append(str(index))
    return order


def names(order: Order) -> list[str]:
    return sorted(order, key=order.__getitem__)


def test_random_changes_against_a_list():
    rng = random.Random(0)
    order, expected = numbered(3), ["0", "1", "2"]
    kept = {}
    for number in range(2000):
        name = f"n{number}"
        chance = rng.random()
        if chance < 0.1:
            order.append(name)
            expected.append(name)
        elif chance < 0.3 and len(expected) > 1:
            gone = rng.choice(expected)
            order.discard(gone)
            expected.remove(gone)
            kept.pop(gone, None)
            continue
        else:
            # Often behind the newest, so that runs of newcomers form.
            behind = expected[-1] if chance < 0.5 else rng.choice(expected)
            order.insert(name, behind)
            expected.insert(expected.index(behind) + 1, name)
        kept[name] = order[name]
    assert names(order) == expected
    assert all(order[name] == place for name, place in kept.items()), "a place does not change"


@pytest.mark.parametrize("behind_the_newest", [True, False])
def test_a_long_run_of_newcomers_stays_apart_and_short(behind_the_newest):
    order, behind = numbered(2), "0"
    for number in range(5000):
        order.insert(f"n{number}", behind)
        if behind_the_newest:
            behind = f"n{number}"
    places = [order[name] for name in names(order)]
    assert all(a < b for a, b in itertools.pairwise(places))
    assert max(place.denominator for place in places) <= 5001


def test_a_newcomer_between_is_behind_one_and_in_front_of_the_others():
    order = Order({"a": 1, "b": 2, "c": 5, "d": 9})
    order.insert_between("x", "a", ["c", "d"])
    assert order["a"] < order["x"] < order["c"]
    order.insert_between("last", "d", [])
    assert order["d"] < order["last"]
    # Where a reader stands in front already, nothing is behind and in front of both.
    order.insert_between("stuck", "c", ["a"])
    assert order["stuck"] == order["c"]


def test_names_at_one_place_stand_by_name():
    order = Order({"b": 1, "a": 1, "c": 0})
    assert order.sorted(["a", "b", "c"]) == ["c", "a", "b"]
    order.put("0", 1)
    assert order.sorted(order) == ["c", "0", "a", "b"]


def test_names_are_spread_up_to_a_place():
    order = Order({"low": 2, "high": 3})
    order.spread(["x", "y", "z"], 2, 3)
    assert order["low"] < order["x"] < order["y"] < order["z"] == order["high"]


def test_a_copy_goes_its_own_way():
    order = numbered(2)
    order.insert("x", "0")
    other = order.copy()
    other.insert("y", "0")
    other.append("z")
    assert names(order) == ["0", "x", "1"]
    assert names(other) == ["0", "y", "x", "1", "z"]
    order.insert("y", "0")
    order.append("z")
    assert names(order) == names(other)
