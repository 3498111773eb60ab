"""Which input and output of one model corresponds to which of another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bnfold.verification.answers import Answers
from bnfold.verification.runtime.sessions import Session, ValueSpec


class MismatchError(Exception):
    """The second model differs in a way that needs no numbers; the message says how."""


@dataclass(frozen=True, slots=True)
class Interface:
    """The second model's name for each input, and each output, of the first; which initializers a feed may override."""

    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    overridable: frozenset[str] = frozenset()


def match(answers: Answers, session: Session) -> Interface:
    """What corresponds to what. Raises MismatchError where something has no counterpart."""
    overridable = frozenset(spec.name for spec in session.optional_inputs())
    return Interface(match_inputs(answers, session), match_outputs(answers.declared, session.outputs()), overridable)


def match_inputs(answers: Answers, session: Session) -> dict[str, str]:
    """The second model's name for each input of the first: by name, else by position.

    Raises MismatchError if one of them lacks an input, or has it with another dtype or rank.
    Initializers that a feed may override need not be there unless a feed does override them.
    """
    theirs = {spec.name: spec for spec in session.inputs()}
    overridable = {spec.name: spec for spec in session.optional_inputs()}
    mine = {spec.name: spec for spec in answers.inputs}
    renamed = len(theirs) == len(mine) and not set(theirs) & set(mine)
    matching = dict(zip(mine, theirs if renamed else mine, strict=True))
    for name, other in matching.items():
        spec = theirs.get(other) or overridable.get(other)
        if spec is None:
            raise MismatchError(f"the second model has no input {name!r}")
        _check_same_kind("input", mine[name], spec)
    extra = next((name for name in theirs if name not in matching.values()), None)
    if extra is not None:
        raise MismatchError(f"the second model has one more input, {extra!r}")
    matching.update({spec.name: spec.name for spec in answers.optional if spec.name in overridable})
    for name in _fed(answers):
        if name not in matching:
            raise MismatchError(f"{name!r} is given as an input but is a constant in the second model")
    return matching


def match_outputs(mine: Sequence[ValueSpec], theirs: Sequence[ValueSpec]) -> dict[str, str]:
    """The second model's name for each output of the first: by name, else by position.

    Raises MismatchError if the outputs are not the same in number, dtype and rank.
    """
    by_name = {spec.name: spec for spec in theirs}
    lacking = [spec.name for spec in mine if spec.name not in by_name]
    if not lacking:
        names = {spec.name for spec in mine}
        extra = next((name for name in by_name if name not in names), None)
        if extra is not None:
            raise MismatchError(f"the second model has one more output, {extra!r}")
    elif len(mine) != len(theirs):
        raise MismatchError(f"the second model has no output {lacking[0]!r}")
    pairs = list(zip(mine, theirs, strict=True)) if lacking else [(spec, by_name[spec.name]) for spec in mine]
    for spec, other in pairs:
        _check_same_kind("output", spec, other)
    return {spec.name: other.name for spec, other in pairs}


def _check_same_kind(role: str, mine: ValueSpec, theirs: ValueSpec) -> None:
    if mine.type != theirs.type:
        raise MismatchError(f"{role} {mine.name!r} is {theirs.type} in the second model, {mine.type} in the original")
    # An empty shape may stand for an unknown one.
    if mine.shape and theirs.shape and len(mine.shape) != len(theirs.shape):
        raise MismatchError(
            f"{role} {mine.name!r} has rank {len(theirs.shape)} in the second model, {len(mine.shape)} in the original"
        )


def _fed(answers: Answers) -> Iterable[str]:
    return dict.fromkeys(name for feed in answers.feeds for name in feed.values)
