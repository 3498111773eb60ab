"""How much rounding alone moves a model's outputs: the unit in which differences are judged.

The original is run with every float weight and input moved by up to one unit in the last place, at
random: what that does to an output, any rearrangement of the arithmetic may do to it. Models are judged
so where they cannot be evaluated in float64, and when the runtime's optimisations are checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bnfold.graph import Array
from bnfold.verification.deviation import Deviation, deviation
from bnfold.verification.feeds.hints import graphs
from bnfold.verification.runtime.onnx_file import OnnxFile
from bnfold.verification.runtime.sessions import RunError, Session, Settings

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

    from bnfold.verification.answers import Answers

#: The original's deviations from itself on one feed, by output: one mapping a measurement.
Samples = list[dict[str, Deviation]]

#: How many jittered copies of the original are run at first, and in all where that is not enough:
#: the largest of few random numbers says little about how large another one may be.
FEW_SAMPLES, MANY_SAMPLES = 2, 10
#: Larger models are judged by the fixed tolerance: a jittered copy would have to be held in memory.
MAX_BYTES = 1 << 30
#: Operators with float operands that are settings, not weights: a size, an exponent, a limit.
# fmt: off
_SETTINGS = frozenset({
    "Cast", "Ceil", "Clip", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mod",
    "NonMaxSuppression", "OneHot", "Pad", "Pow", "Range", "Resize", "Round", "Upsample", "Where",
})
# fmt: on


class Noise:
    """The rounding noise of one model's outputs, or of ``tensors`` inside it."""

    def __init__(self, model: OnnxFile, settings: Settings, tensors: Sequence[str] = ()) -> None:
        self._model = model
        self._settings = settings
        self._tensors = tensors

    def jittered(self, answers: Answers, feeds: Sequence[int], samples: range) -> dict[int, Samples]:
        """The original's deviations from itself on each of those feeds, one for each number in ``samples``.

        Fewer where the original does not stand the jitter.
        """
        found: dict[int, Samples] = {index: [] for index in feeds}
        for sample in samples:
            session = self._jittered_session(sample)
            if session is None:
                break
            for index, measured in found.items():
                values = jittered_feed(answers.feeds[index].values, self._settings.seed, sample)
                try:
                    outputs = session.run(values, {name: name for name in self._tensors} or None)
                except RunError:
                    continue
                compared = _compared(answers.outputs[index], outputs)
                if compared.keys() == answers.outputs[index].keys():
                    measured.append(compared)
        return found

    def _jittered_session(self, sample: int) -> Session | None:
        content = jittered_model(self._model, self._settings.seed, sample)
        if content is None:
            return None
        if self._tensors:
            content = self._model.with_outputs(self._tensors, content)
        try:
            return Session(self._model, self._settings, content=content)
        except RunError:
            return None  # The jitter made a model that does not load, say by a size computed from floats.


def _compared(mine: Mapping[str, Array], theirs: Mapping[str, Array]) -> dict[str, Deviation]:
    """The deviations of the outputs that both have, in the precision of the first."""
    both = {name: theirs[name].astype(mine[name].dtype) for name in mine if name in theirs}
    compared = {name: deviation(mine[name], value) for name, value in both.items()}
    return {name: item for name, item in compared.items() if not item.fault}


def jittered_model(model: OnnxFile, seed: int, sample: int) -> bytes | None:
    """The file with each float weight moved one unit in the last place up, down, or not at all.

    Every ``sample`` is another draw. None where that cannot be had: the model is too large, or is not whole.
    """
    if model.size > MAX_BYTES:
        return None
    proto = model.load(external=True)
    rng = np.random.default_rng((seed, sample, 0))
    for tensor in _weights(proto):
        _jitter_tensor(tensor, rng)
    return bytes(proto.SerializeToString())


def jittered_feed(values: Mapping[str, Any], seed: int, sample: int) -> dict[str, Any]:
    """The same inputs, floats moved as in :func:`jittered_model`."""
    rng = np.random.default_rng((seed, sample, 1))
    return {name: jitter(value, rng) if isinstance(value, np.ndarray) else value for name, value in values.items()}


def jitter(values: Array, rng: np.random.Generator) -> Array:
    """Each element moved by −1, 0 or 1 unit in the last place; zeros and non-finite values stay.

    Half of the elements stay, so that the mean size of a step is half a unit: that of a rounding.
    """
    integer = {2: np.int16, 4: np.int32, 8: np.int64}.get(values.dtype.itemsize)
    if integer is None or not (values.dtype.kind == "f" or values.dtype.name == "bfloat16"):
        return values
    choice = rng.integers(0, 4, values.shape, np.int8)
    # The bits of a float, read as an integer, count the floats of that sign: the next one is ±1 away.
    bits = values.copy(order="C").view(integer)
    moved = (bits + (choice == 0) - (choice == 1)).view(values.dtype)
    with np.errstate(invalid="ignore"):
        usable = (values != 0) & np.isfinite(moved) & np.isfinite(values)
    return np.where(usable, moved, values)


def _weights(model: ModelProto) -> Iterator[TensorProto]:
    """The float constants that operators compute with, in subgraphs and functions too."""
    bodies = list(graphs(model.graph))
    nodes = [node for body in bodies for node in body.node]
    settings = _read_as_settings(nodes)
    for body in bodies:
        for tensor in body.initializer:
            if tensor.name not in settings:
                yield tensor
    for function in model.functions:
        nodes.extend(function.node)
    for node in nodes:
        if node.op_type == "Constant" and node.output[0] not in settings:
            yield from (attribute.t for attribute in node.attribute if attribute.name == "value")


def _read_as_settings(nodes: Iterable[NodeProto]) -> set[str]:
    return {
        name
        for node in nodes
        if node.op_type in _SETTINGS
        for slot, name in enumerate(node.input)
        if slot > 0 or node.op_type in ("Cast", "Range")
    }


def _jitter_tensor(tensor: TensorProto, rng: np.random.Generator) -> None:
    from onnx import numpy_helper

    if tensor.data_type not in (tensor.FLOAT, tensor.DOUBLE, tensor.FLOAT16, tensor.BFLOAT16):
        return
    values = numpy_helper.to_array(tensor)
    moved = numpy_helper.from_array(jitter(values, rng), tensor.name)
    tensor.CopyFrom(moved)
