"""One model run in two ways: the second must be as near to the float64 evaluation as the first."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bnfold.graph import Array
from bnfold.verification.comparison import Comparison
from bnfold.verification.deviation import Deviation
from bnfold.verification.exact.accuracy import Error, error
from bnfold.verification.exact.judge import with_errors
from bnfold.verification.exact.members import flat
from bnfold.verification.float64 import Evaluator, NotEvaluatedError
from bnfold.verification.output_check import OnFeed, check_output
from bnfold.verification.reference import Reference
from bnfold.verification.verdict import EQUAL, WITHIN_ROUNDING, Exactness, Judgement, OutputCheck

if TYPE_CHECKING:
    from bnfold.verification.noise.judge import NoiseJudge


class AccuracyJudge:
    """Implements :class:`bnfold.verification.comparison.Judge` for candidates that are the original itself.

    Where one is farther from exact than the original, or decides otherwise, or float64 does not reach, ``otherwise``
    has the last word: an optimisation may tip a decision that any rounding tips.
    """

    def __init__(self, otherwise: NoiseJudge) -> None:
        self._otherwise = otherwise
        self._exact: dict[str, dict[str, Array]] = {}
        self._evaluator: Evaluator | None = None

    def judge(self, case: Comparison) -> Judgement:
        """One check for each output, with both errors."""
        started = time.perf_counter()
        try:
            checks = [self._check(case, name, items) for name, items in case.measured.items()]
        except NotEvaluatedError:
            return self._otherwise.judge(case)
        if not all(check.ok and check.factor <= 1.0 and not check.mismatches for check in checks):
            return self._otherwise.judge(case)
        feeds, seconds = len(case.reference.answers.feeds), time.perf_counter() - started
        verdict = EQUAL if all(check.identical for check in checks) else WITHIN_ROUNDING
        exactness = Exactness(len(checks) * feeds, 0.0, 0, feeds, False, 0, seconds)
        return Judgement(tuple(checks), (), verdict, "", exactness)

    def _check(self, case: Comparison, name: str, items: Mapping[int, Deviation]) -> OutputCheck:
        reference = case.reference
        total: Error | None = None
        for index in items:
            truth = self._truth(reference, index).get(name)
            if truth is None:
                raise NotEvaluatedError(f"{name} was not evaluated")
            item = error(name, truth, reference.answers.outputs[index][name], case.outputs[index][name])
            total = item if total is None else total.joined(item)
        on_feeds = [OnFeed(reference.answers.feeds[index].description, item) for index, item in items.items()]
        check = check_output(name, on_feeds, self._otherwise.tolerance)
        return with_errors(check, total)

    def _truth(self, reference: Reference, index: int) -> dict[str, Array]:
        """The outputs in float64; each feed is evaluated once for all candidates."""
        feed = reference.answers.feeds[index]
        if feed.description not in self._exact:
            if reference.model.draws:
                raise NotEvaluatedError("the model draws at random")
            if self._evaluator is None:
                self._evaluator = Evaluator(reference.model.load(external=False), str(reference.model.folder))
            values: Mapping[str, Any] = feed.values
            self._exact[feed.description] = flat(self._evaluator.run(values))
        return self._exact[feed.description]
