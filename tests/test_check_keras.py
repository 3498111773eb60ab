"""``bnfold.check``: findings as Python warnings."""

from __future__ import annotations

import warnings

import pytest
from keras import Input, Sequential, layers

import bnfold


@pytest.fixture(scope="module")
def model() -> Sequential:
    """A bias that the BN behind it cancels, and a BN behind a Dropout."""
    return Sequential(
        [
            Input((8,)),
            layers.Dense(4, name="dense"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(name="relu"),
            layers.Dense(2, activation="softmax", name="classes"),
        ]
    )


def test_each_finding_is_a_warning_that_names_its_layer(model: Sequential) -> None:
    with pytest.warns(bnfold.BnfoldWarning) as caught:
        report = bnfold.check(model)
    messages = [entry.message for entry in caught if isinstance(entry.message, bnfold.BnfoldWarning)]
    assert [message.code for message in messages] == [finding.code for finding in report.findings]
    assert "BN201" in {message.code for message in messages}
    assert all(message.layer in str(message) for message in messages)
    assert all(entry.filename == __file__ for entry in caught)


def test_the_first_finding_fails_a_test(model: Sequential) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", bnfold.BnfoldWarning)
        with pytest.raises(bnfold.BnfoldWarning, match=r"BN201 .*dense"):
            bnfold.check(model, select=["BN201"])


def test_nothing_to_find_is_silent(model: Sequential) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", bnfold.BnfoldWarning)
        found = bnfold.check(bnfold.restyle(model, "before"), select=["BN201"])
    assert not found.findings
