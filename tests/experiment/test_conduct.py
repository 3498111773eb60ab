"""What is made of the results of jobs."""

from __future__ import annotations

from bnfold.experiment.conduct import relative_to

TIMES = {"a": {"milliseconds": 2.0, "relative": 1.0}, "b": {"milliseconds": 3.0, "relative": 1.5}}


def test_times_are_relative_to_the_first_arm() -> None:
    assert relative_to("a", TIMES) == TIMES


def test_without_the_first_arm_they_are_relative_to_nothing() -> None:
    """No ONNX could be made of it, or it could not be timed: the others were timed beside each other."""
    plain = {"a": {"milliseconds": 2.0}, "b": {"milliseconds": 3.0}}
    assert relative_to("c", TIMES) == plain
    assert relative_to("c", {**TIMES, "c": {"note": "it ended"}}) == {**plain, "c": {"note": "it ended"}}
