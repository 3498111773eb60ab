"""verify(): right rewritings are accepted, planted faults are not."""

from __future__ import annotations

import numpy as np
import pytest
from verification_models import cnn, folded, weight, with_weight

from bnfold.verification import verify


def test_a_model_equals_itself_bit_for_bit():
    check = verify(cnn(), cnn())
    assert check.equivalent
    assert check.verdict == "equal"
    assert check.feeds.count >= 3
    assert "equal bit for bit" in check.sentence()


def test_a_right_fold_is_within_rounding():
    check = verify(cnn(), folded(cnn()))
    assert check.verdict == "within rounding"
    assert 0 < check.outputs[0].max_rel < 1e-6
    assert check.outputs[0].snr_db > 100


@pytest.mark.parametrize("name", ["w1", "w2", "bias1", "bias2"])
@pytest.mark.parametrize("channel", [0, 5])
def test_one_channel_scaled_by_a_thousandth_more_is_different(name, channel):
    wrong = folded(cnn())
    values = weight(wrong, name)
    values[channel] *= np.float32(1.001)
    check = verify(cnn(), with_weight(wrong, name, values))
    assert check.verdict == "different"
    assert not check.equivalent
    assert "differs by" in check.reason
