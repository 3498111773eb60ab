"""The BatchNormalizations of a graph, those that an exporter took apart into Mul and Add included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bnfold.affine import Affine
from bnfold.analysis.flow import Flow, Kind
from bnfold.analysis.phrases import title
from bnfold.graph import ModelGraph, Op, Param
from bnfold.operators import BatchNorm, Node, Role, as_affine, batchnorm, facts_of, linear_bias
from bnfold.operators.dialect import dialect_of
from bnfold.operators.patterns import is_bias_add, is_normaliser, is_quotient, is_sum, sole_reader
from bnfold.refusal import Refusal

#: The input slot of a BN's moving mean, the same in ONNX and in Keras graphs.
MEAN_SLOT = 3


@dataclass(frozen=True, slots=True)
class Site:
    """One BatchNormalization where it stands.

    ``ops`` are its operators, more than one where an exporter took it apart; ``parameters`` are its
    gamma, beta, mean and variance, a Refusal where it has none that are constant, and None for one taken apart, of
    which only the ``affine`` is left. ``tensor`` is its input, ``output`` its output.
    """

    ops: tuple[Op, ...]
    parameters: BatchNorm | Refusal | None
    affine: Affine | None
    channels: int | None
    axis: int | None
    tensor: str
    output: str

    @property
    def op(self) -> Op:
        """The operator that puts out the result."""
        return self.ops[-1]

    @property
    def decomposed(self) -> bool:
        return self.parameters is None

    @property
    def label(self) -> str:
        """The name for people: of one taken apart, the names of all its operators."""
        return " + ".join(op.display for op in self.ops)

    @property
    def title(self) -> str:
        """:attr:`label` in a sentence."""
        return title(self.op) if len(self.ops) == 1 else self.label

    @property
    def statistics(self) -> BatchNorm | None:
        """Its gamma, beta, mean and variance, where they are constants and there are channels at all."""
        return self.parameters if isinstance(self.parameters, BatchNorm) and self.parameters.channels else None


def find_sites(graph: ModelGraph, flow: Flow) -> list[Site]:
    """Every BN of this graph (not of its subgraphs), in the order of the file."""
    sites = [_whole(graph, op) for op in graph.ops() if flow.role(op) is Role.BATCHNORM]
    if dialect_of(graph).decomposes:
        sites += _decomposed(graph, flow)
        sites.sort(key=lambda site: graph.position(site.op.name))
    return sites


def _whole(graph: ModelGraph, op: Op) -> Site:
    parameters = batchnorm(graph, op)
    assert parameters is not None
    tensor = op.input(facts_of(op).data_slot(Node(graph, op)))
    if isinstance(parameters, Refusal):
        gamma = graph.constant(op.input(1))
        channels = gamma.size if gamma is not None else graph.dim(tensor, 1)
        return Site((op,), parameters, None, channels, None, tensor, op.outputs[0])
    affine = parameters.affine if parameters.channels else None
    return Site((op,), parameters, affine, parameters.channels, parameters.axis, tensor, op.outputs[0])


def _decomposed(graph: ModelGraph, flow: Flow) -> Iterator[Site]:
    for run in _runs(graph, flow):
        rest = run[1:] if _is_bias(graph, flow, run[0]) else run
        site = _as_site(graph, flow, rest)
        if site is not None:
            yield site


def _runs(graph: ModelGraph, flow: Flow) -> Iterator[list[Op]]:
    """The longest runs of affine operators of which each is the only reader of the one before."""
    for op in graph.ops():
        if flow.role(op) is not Role.AFFINE or _before(graph, flow, op) is not None:
            continue
        run = [op]
        while (after := _after(graph, flow, run[-1])) is not None:
            run.append(after)
        yield run


def _before(graph: ModelGraph, flow: Flow, op: Op) -> Op | None:
    producer = graph.producer(op.input(facts_of(op).data_slot(Node(graph, op))))
    return producer if producer is not None and _after(graph, flow, producer) is op else None


def _after(graph: ModelGraph, flow: Flow, op: Op) -> Op | None:
    if flow.role(op) is not Role.AFFINE:
        return None
    after = sole_reader(graph, op.outputs[0])
    return after if after is not None and flow.role(after) is Role.AFFINE else None


def _as_site(graph: ModelGraph, flow: Flow, run: list[Op]) -> Site | None:
    """A run as a BN: a scale and then a shift, by channel, with nothing normalised at run time before."""
    if len(run) < 2 or not is_sum(run[-1]):
        return None
    maps = [as_affine(graph, op) for op in run]
    scales = [op for op, part in zip(run, maps, strict=True) if isinstance(part, Affine) and not part.is_shift]
    wide = [constant for op in run if (constant := _constant(graph, op)) is not None and constant.size > 1]
    if not scales or len(wide) < 2:
        return None
    total = Affine.identity()
    for part in maps:
        if not isinstance(part, Affine) or not total.composes(part):
            return None
        total = total.then(part)
    tensor = run[0].input(facts_of(run[0]).data_slot(Node(graph, run[0])))
    if total.axis is None or total.grid or _normalised(graph, flow, tensor) or _other_axis(flow, tensor, total.axis):
        return None
    return Site(tuple(run), None, total, total.size, total.axis, tensor, run[-1].outputs[0])


def _other_axis(flow: Flow, tensor: str, axis: int) -> bool:
    """A vector along another axis than the layer's channels is a map of positions, not a BN."""
    channels = flow.channels_from.get(tensor)
    return channels is not None and channels.axis != axis


def _constant(graph: ModelGraph, op: Op) -> Param | None:
    return next((param for tensor in op.inputs if (param := graph.constant(tensor)) is not None), None)


def _normalised(graph: ModelGraph, flow: Flow, tensor: str) -> bool:
    """Is this the scale and shift of a layer, group or instance normalisation?"""
    producer = graph.producer(tensor)
    while producer is not None and flow.role(producer) is Role.SHAPE:
        producer = graph.producer(producer.input(0))
    if producer is None:
        return False
    quotient = flow.role(producer) is Role.JOIN and is_quotient(producer)
    return is_normaliser(producer) or (quotient and flow.origin[producer.outputs[0]].kind is Kind.JOIN)


@dataclass(frozen=True, slots=True)
class Bias:
    """The bias of a linear layer: in the operator itself or in the Add that follows it."""

    param: Param
    owner: Op
    output: str


def bias_of(graph: ModelGraph, flow: Flow, op: Op) -> Bias | None:
    """The constant bias of a linear operator, None where it has none."""
    own = linear_bias(graph, op)
    if own is not None:
        return Bias(own, op, op.outputs[0])
    reader = sole_reader(graph, op.outputs[0])
    if reader is None or not _is_bias(graph, flow, reader):
        return None
    param = _constant(graph, reader)
    assert param is not None
    return Bias(param, reader, reader.outputs[0])


def _is_bias(graph: ModelGraph, flow: Flow, op: Op) -> bool:
    return flow.role(op) is Role.AFFINE and is_bias_add(graph, op)
