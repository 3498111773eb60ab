"""A sample of the random graphs of planted_thousandths.py, in every precision."""

from __future__ import annotations

from collections import Counter

import pytest
from planted_thousandths import outcomes

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_right_folds_pass_and_faults_of_a_thousandth_do_not(dtype):
    found = [(seed, *outcome) for seed in range(40) for outcome in outcomes(dtype, seed)]
    counts = Counter(verdict for _, verdict, _ in found)
    assert not [item for item in found if item[1].isupper()]
    assert counts["right"] >= 15
    assert counts["caught"] >= 30
