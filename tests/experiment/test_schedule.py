"""From what a user says to arms, seeds and rates."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnfold.errors import UsageError
from bnfold.experiment.schedule import Plan, Settings, is_better_higher, make_plan

SETTINGS = Settings(data="data.npz", epochs=2)


def plan(*models: str, arms: tuple[str, ...] = (), seeds: int = 2, rates: tuple[float, ...] = (0.1, 0.01)) -> Plan:
    return make_plan(models, arms, seeds=seeds, rates=rates, settings=SETTINGS)


class TestArms:
    def test_usual_ones(self) -> None:
        assert [(arm.label, dict(arm.style)) for arm in plan("m.keras").arms] == [
            ("none", {"norm": "none"}), ("before", {"norm": "before"}), ("after", {"norm": "after"})
        ]  # fmt: skip

    def test_restyle_specs(self) -> None:
        spec = "before:on-input:momentum=0.9:only=conv*:only=dense*"
        assert plan("m.keras", arms=(spec, "original")).arms[0].style == {
            "norm": "before", "on_input": True, "momentum": 0.9, "only": ("conv*", "dense*")
        }  # fmt: skip

    def test_the_model_as_it_is_and_another(self) -> None:
        arms = plan("m.keras", arms=("original", "other.keras")).arms
        assert [(arm.label, arm.model, dict(arm.style)) for arm in arms] == [
            ("m", "m.keras", {}), ("other", "other.keras", {})
        ]  # fmt: skip

    def test_several_models_are_arms(self) -> None:
        assert [(arm.label, arm.model) for arm in plan("a/m.keras", "b/m.keras").arms] == [
            ("m", "a/m.keras"), ("m (2)", "b/m.keras")
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("arms", "words"),
        [
            (("before", "behind"), "not 'behind'"),
            (("before",), "at least two arms"),
            (("before:eps=1", "none"), "has the option 'eps=1'; there are on_input, bias="),
            (("before:momentum", "none"), "has the option 'momentum'"),
            (("before:on_input=1", "none"), "has the option 'on_input=1'"),
            (("before:momentum=much", "none"), "momentum=much, which is no number"),
        ],
    )
    def test_what_is_wrong_is_said(self, arms: tuple[str, ...], words: str) -> None:
        with pytest.raises(UsageError, match=words):
            plan("m.keras", arms=arms)

    def test_models_and_arms_do_not_go_together(self) -> None:
        with pytest.raises(UsageError, match="leave out --arms"):
            plan("a.keras", "b.keras", arms=("none", "before"))


class TestRuns:
    def test_each_arm_seed_and_rate_once(self) -> None:
        keys = [run.key for run in plan("m.keras", seeds=5, rates=(0.1, 0.01, 0.001)).runs()]
        assert len(keys) == len(set(keys)) == 45

    def test_seeds(self) -> None:
        with pytest.raises(UsageError, match="1 to 40 seeds"):
            plan("m.keras", seeds=41)

    def test_a_rate_twice(self) -> None:
        with pytest.raises(UsageError, match="given twice"):
            plan("m.keras", rates=(0.1, 0.1))

    def test_the_rate_of_the_model(self) -> None:
        assert plan("m.keras", rates=()).rates == (None,)


def test_identity_is_plain_and_follows_the_data(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    identities = []
    for content in (b"a", b"b"):
        path.write_bytes(content)
        found = make_plan(["m.keras"], (), settings=Settings(data=str(path), epochs=2)).identity()
        identities.append(found)
    assert identities[0]["data"] != identities[1]["data"]
    assert {**identities[0], "data": ""} == {**identities[1], "data": ""}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", ("accuracy", True)), ("sparse_categorical_accuracy", ("sparse_categorical_accuracy", True)),
        ("AUC", ("AUC", True)), ("loss", ("loss", False)), ("mae", ("mae", False)),
        ("mean_squared_error", ("mean_squared_error", False)), ("binary_crossentropy", ("binary_crossentropy", False)),
        ("odd:max", ("odd", True)), ("odd:min", ("odd", False)), ("accuracy:min", ("accuracy", False)),
    ],
)  # fmt: skip
def test_which_way_a_metric_is_better(metric: str, expected: tuple[str, bool]) -> None:
    assert is_better_higher(metric) == expected


@pytest.mark.parametrize("metric", ["odd", "accuracy:up"])
def test_a_metric_that_says_nothing(metric: str) -> None:
    with pytest.raises(UsageError, match="max"):
        is_better_higher(metric)
