"""What an experiment consists of: arms, seeds, learning rates, and how each run is trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bnfold.errors import UsageError
from bnfold.experiment.data import identity_of
from bnfold.experiment.significance import MOST_SEEDS

#: The arms of ``bnfold experiment MODEL`` where none are named.
ARMS = ("none", "before", "after")
#: The arm that is the model as it is.
ORIGINAL = "original"
RATES = (0.001, 0.003, 0.01)

#: What a restyle spec may say after the placement, and how its value is read.
_OPTIONS = {"on_input": bool, "bias": str, "momentum": float, "epsilon": float, "only": str, "exempt": str}
_REPEATED = frozenset({"only", "exempt"})
_UP = ("acc", "auc", "precision", "recall", "f1", "fbeta", "f_beta", "top_k", "iou", "r2", "similarity", "sensitivity",
       "specificity", "dice")  # fmt: skip
_DOWN = ("loss", "error", "entropy", "divergence", "hinge", "poisson", "cosh", "mse", "mae", "mape", "msle", "rmse")


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the models that are compared: ``model`` restyled as ``style`` says, or as it is where that is empty."""

    label: str
    model: str
    style: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How every run is trained. ``metric``, ``optimizer`` and ``loss`` are the model's own where they are None.

    ``validation`` is the part of the training set that is split off where there is no validation set. ``patience``
    is how many epochs without a better score end a run early. ``threads`` of each run: results must not depend on
    how many runs share the machine. With ``keep_weights`` runs go on from the weights of the file.
    """

    data: str
    epochs: int
    batch_size: int = 32
    validation: float = 0.2
    patience: int | None = None
    metric: str | None = None
    optimizer: str | None = None
    loss: str | None = None
    threads: int = 1
    keep_weights: bool = False
    custom: tuple[str, ...] = ()
    allow_unsafe: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """One training. A rate of None is the one that the model was compiled with."""

    arm: Arm
    seed: int
    rate: float | None

    @property
    def key(self) -> str:
        return run_key(self.arm.label, self.seed, self.rate)


def run_key(label: str, seed: int, rate: float | None) -> str:
    """What a run is known by in the store."""
    return f"train {label} seed {seed} rate {'own' if rate is None else f'{rate:g}'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All of it."""

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    rates: tuple[float | None, ...]
    settings: Settings

    def runs(self) -> Iterator[Run]:
        """By seed, then by rate: what is there early on can be compared already."""
        return (Run(arm, seed, rate) for seed in self.seeds for rate in self.rates for arm in self.arms)

    def identity(self) -> dict[str, Any]:
        """What every run's result depends on but for its arm, seed and rate: a store holds runs of one such."""
        return {**asdict(self.settings), "custom": list(self.settings.custom), "data": identity_of(self.settings.data)}


def make_plan(
    models: Sequence[str],
    arms: Sequence[str],
    *,
    seeds: int = 5,
    rates: Sequence[float] = RATES,
    settings: Settings,
) -> Plan:
    """A plan from what a user said. Without ``arms`` one model has the usual ones, and several are the arms themselves.

    Raises UsageError.
    """
    if not 1 <= seeds <= MOST_SEEDS:
        raise UsageError(f"an experiment has 1 to {MOST_SEEDS} seeds, not {seeds}")
    if len(models) > 1 and arms:
        raise UsageError("several models are the arms themselves: leave out --arms")
    specs = list(arms or ARMS) if len(models) == 1 else [ORIGINAL] * len(models)
    found = [_arm(spec, model) for spec, model in zip(specs, _repeat(models, len(specs)), strict=True)]
    if len(found) < 2:
        raise UsageError("an experiment compares at least two arms")
    if len(set(rates)) != len(rates):
        raise UsageError("a learning rate is given twice")
    return Plan(
        arms=tuple(_labelled(found)), seeds=tuple(range(seeds)), rates=tuple(rates) or (None,), settings=settings
    )


def _repeat(models: Sequence[str], count: int) -> Sequence[str]:
    return models if len(models) > 1 else [models[0]] * count


def _arm(spec: str, model: str) -> Arm:
    """``before``, ``before:on_input:momentum=0.9``, ``original``, or a model file."""
    if spec == ORIGINAL:
        return Arm(Path(model).stem, model)
    placement, *options = spec.split(":")
    if placement in ARMS:
        return Arm(spec, model, {"norm": placement, **_style(spec, options)})
    if Path(spec).suffix in (".keras", ".h5", ".hdf5") or Path(spec).exists():
        return Arm(Path(spec).stem, spec)
    raise UsageError(f"an arm is {', '.join(ARMS)}, {ORIGINAL} or a model file, not {spec!r}")


def _style(spec: str, options: Sequence[str]) -> dict[str, Any]:
    style: dict[str, Any] = {}
    for option in options:
        name, has_value, text = option.partition("=")
        name = name.replace("-", "_")
        kind = _OPTIONS.get(name)
        if kind is None or bool(has_value) == (kind is bool):
            said = ", ".join(key if kind is bool else f"{key}=…" for key, kind in _OPTIONS.items())
            raise UsageError(f"the arm {spec!r} has the option {option!r}; there are {said}")
        try:
            value = True if kind is bool else kind(text)
        except ValueError as error:
            raise UsageError(f"the arm {spec!r} has {name}={text}, which is no number") from error
        style[name] = (*style.get(name, ()), value) if name in _REPEATED else value
    return style


def _labelled(arms: Sequence[Arm]) -> Iterator[Arm]:
    """Arms of one name are numbered."""
    seen: dict[str, int] = {}
    for arm in arms:
        seen[arm.label] = count = seen.get(arm.label, 0) + 1
        yield arm if count == 1 else Arm(f"{arm.label} ({count})", arm.model, arm.style)


def is_better_higher(metric: str) -> tuple[str, bool]:
    """The metric's name, and whether more of it is better: known by the name, or by ``:max`` or ``:min`` behind it.

    Raises UsageError where neither says it.
    """
    name, _, said = metric.partition(":")
    if said:
        if said not in ("max", "min"):
            raise UsageError(f"the metric {metric!r} should end in :max or :min")
        return name, said == "max"
    plain = name.lower()
    if any(word in plain for word in _DOWN):
        return name, False
    if any(word in plain for word in _UP):
        return name, True
    raise UsageError(f"is more or less of the metric {name!r} better? Say {name}:max or {name}:min")


def digest(value: Any) -> str:
    """A short name for plain data or bytes."""
    content = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]
