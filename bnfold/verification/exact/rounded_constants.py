"""Which constants of two models were rounded, so that each may be off by that: what is moved to see what it does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bnfold.graph import Array
from bnfold.verification.exact.perturbation import Rounded, blocks
from bnfold.verification.float64 import Hook
from bnfold.verification.float64.tensors import REALS, stored_values, widened

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

#: Types in which a rounding is far smaller than a fault that matters.
_WIDE = ("float32", "float64")


class RoundedConstants:
    """Those of an original and a second model, given their ``files`` and the ``folders`` of their external data.

    ``computed`` are constants that a converter computed, and the sizes that they were rounded at; None for an
    original that nothing is known of. ``exact`` are functions that give weights of the second model before they were
    rounded, ``same_names`` says that tensors of one name are meant to hold the same values.
    Raises NotEvaluatedError where external data cannot be read.
    """

    def __init__(
        self,
        files: tuple[ModelProto, ModelProto],
        folders: tuple[str, str],
        computed: tuple[Mapping[str, Any] | None, Mapping[str, Any]],
        exact: Mapping[str, Callable[[], Any]],
        same_names: bool,
    ) -> None:
        self._files, self._folders, self._computed = files, folders, computed
        self._exact, self._same_names = exact, same_names

    def any(self) -> bool:
        """Is anything to be moved within its rounding?"""
        return self.any_of_second() or bool(self._before)

    def any_of_second(self) -> bool:
        """Is anything of the second model?"""
        return bool(self._second or self._settings)

    def hooks(self, seed: int) -> Iterator[tuple[str, Hook]]:
        """Each kind of rounding (:class:`bnfold.verification.exact.suspects.Suspect` lists them), done once.

        ``rounded`` is one of the second model, the others are of the original.
        """
        if self.any_of_second():
            yield "rounded", Rounded(self._second, self._settings, seed, self._computed[1])
        if self._before:
            yield "rounded_before", Rounded(self._before, (), seed, self._sizes_before)
        if self._both:
            yield "rounded_both", Rounded(self._both, (), seed, {}, units=0.5)

    @cached_property
    def own(self) -> tuple[dict[str, TensorProto], dict[str, TensorProto]]:
        """The float constants of each of the models that the other does not have."""
        return _own_constants(*self._files, self._folders), _own_constants(*self._files[::-1], self._folders[::-1])

    @cached_property
    def _second(self) -> dict[str, str]:
        """What of the second model is rounded and not known before that, with its types."""
        return _types_of({name: tensor for name, tensor in self.own[1].items() if name not in self._exact})

    @cached_property
    def _settings(self) -> set[str]:
        return _changed_settings(*self._files)

    @cached_property
    def _before(self) -> dict[str, str]:
        """What of the original is: what its converter computed.

        For other people's models that is what is in float32 and has no counterpart, as the root of 2 of an operator
        written out: that it was rounded there says nothing about a fault of a size that matters.
        """
        mine, theirs = self.own
        computed = self._computed[0]
        if computed is not None:
            return _types_of({name: tensor for name, tensor in mine.items() if name in computed})
        if self._same_names:
            return {}
        kinds = {_kind(tensor) for tensor in theirs.values()}
        gone = {name: tensor for name, tensor in mine.items() if _kind(tensor) not in kinds}
        return {name: dtype for name, dtype in _types_of(gone).items() if dtype in _WIDE}

    @cached_property
    def _both(self) -> dict[str, str]:
        """What of the original is in a short type, and may have been rounded to it when the second model was."""
        if self._same_names or self._computed[0] is not None:
            return {}
        return {name: dtype for name, dtype in _types_of(self.own[0]).items() if dtype not in _WIDE}

    @cached_property
    def _sizes_before(self) -> Mapping[str, Any]:
        """The sizes that the constants of :attr:`_before` were rounded at."""
        computed, mine = self._computed[0], self.own[0]
        if computed is not None:
            return computed
        return {name: np.abs(widened(stored_values(mine[name], self._folders[0]))) for name in self._before}

    def wrong(self) -> list[str]:
        """The initializers of the second model that are not what their unrounded values round to."""
        from onnx import helper

        wrong = []
        for tensor in self._files[1].graph.initializer:
            if tensor.name in self._exact:
                exact = np.asarray(self._exact[tensor.name](), np.float64).reshape(-1)
                stored = stored_values(tensor, self._folders[1]).reshape(-1)
                dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
                if any(_differ(stored[part], exact[part], dtype) for part in blocks(stored.size)):
                    wrong.append(tensor.name)
        return wrong


def _differ(stored: Array, exact: Array, dtype: Any) -> bool:
    with np.errstate(all="ignore"):
        due = exact.astype(dtype)
    return not np.array_equal(stored.astype(np.float64), due.astype(np.float64), equal_nan=True)


def _own_constants(model: ModelProto, other: ModelProto, folders: tuple[str, str]) -> dict[str, TensorProto]:
    """The float constants of a model that are none of the other's, whatever their names.

    ``folders`` are where the external data of each lie. Raises NotEvaluatedError where these cannot be read.
    """
    mine = {name: tensor for name, tensor in _constants(model.graph).items() if tensor.data_type in REALS}
    kinds = {_kind(tensor) for tensor in mine.values()}
    held = {_content(tensor, folders[1]) for tensor in _constants(other.graph).values() if _kind(tensor) in kinds}
    return {name: tensor for name, tensor in mine.items() if _content(tensor, folders[0]) not in held}


def _types_of(constants: Mapping[str, TensorProto]) -> dict[str, str]:
    """Their types by name."""
    return {name: REALS[tensor.data_type] for name, tensor in constants.items()}


def _changed_settings(first: ModelProto, second: ModelProto) -> set[str]:
    """The outputs of operators of the second model with a float attribute that is another in the first."""
    attributes = {name: value for node in first.graph.node for name, value in _floats(node)}
    return {name for node in second.graph.node for name, value in _floats(node) if attributes.get(name, value) != value}


def _floats(node: Any) -> list[tuple[str, Any]]:
    values = [(item.name, item.f, tuple(item.floats)) for item in node.attribute if item.type in (1, 6)]
    return [(node.output[0], values)] if values and node.output else []


def _constants(graph: GraphProto) -> dict[str, TensorProto]:
    from bnfold.verification.feeds.hints import graphs

    found = {}
    for body in graphs(graph):
        found.update({tensor.name: tensor for tensor in body.initializer})
        for node in body.node:
            if node.op_type == "Constant":
                found.update((node.output[0], item.t) for item in node.attribute if item.name == "value")
    return found


def _kind(tensor: TensorProto) -> tuple[int, ...]:
    """Type and shape."""
    return (tensor.data_type, *tensor.dims)


def _content(tensor: TensorProto, folder: str) -> tuple[int | bytes, ...]:
    """What is equal in constants that hold the same, whatever their names."""
    values = np.ascontiguousarray(stored_values(tensor, folder)).reshape(-1)
    return (*_kind(tensor), hashlib.blake2b(values.view(np.uint8).data, digest_size=16).digest())
