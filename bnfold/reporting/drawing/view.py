"""What there is to draw of a model: operators with what folding and analysis say of them, and the tensors between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bnfold.folding.plan import Fates, FoldStep, Plan, Remaining
from bnfold.graph import ModelGraph, Op
from bnfold.reporting.drawing.blame import blockers

if TYPE_CHECKING:
    from bnfold.analysis.report import Report
    from bnfold.folding.pair import Pair

#: What became of an operator, in the words of the legends.
FOLDED, TOOK_IN, THROUGH, STAYS, NEW, GONE = "folded", "took it in", "moved through", "stays", "new", "not needed"
OPERATOR, INPUT, OUTPUT = "operator", "input", "output"


@dataclass(frozen=True, slots=True)
class Node:
    """One operator, or an input or output of the model or of a subgraph.

    ``key`` is what the plan calls it, unique in the model; ``label`` is for people and need not be.
    ``scope`` is empty or the subgraph it stands in. ``state`` is one of the words above or empty.
    """

    key: str
    label: str
    type: str
    kind: str = OPERATOR
    scope: str = ""
    state: str = ""
    outputs: tuple[str, ...] = ()
    #: The dtype and shape of the first output, ``float32 1×64×56×56``; empty where not known.
    shape: str = ""
    placement: str = ""
    #: What folding did with it, or why it stays.
    fate: str = ""
    #: Codes of the findings about it, and their messages.
    findings: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()
    #: Keys of the operators that stay because of this one.
    blocks: tuple[str, ...] = ()
    #: By how many bits the weight ranges of the layer it folds into spread, before and after; None if not known.
    spread_bits: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """A tensor from the operator that puts it out (its ``output``-th) to one that reads it (as ``slot``).

    ``slot`` is None for a subgraph's result, which its operator hands on.
    """

    source: str
    target: str
    tensor: str
    output: int = 0
    slot: int | None = None


@dataclass(frozen=True, slots=True)
class View:
    """A graph to draw: nodes in the order of the file, edges between them by key."""

    name: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def by_key(self) -> dict[str, Node]:
        return {node.key: node for node in self.nodes}


@dataclass(frozen=True, slots=True)
class Picture:
    """A model before and after folding; ``links`` says which nodes after hold what of each node before."""

    before: View
    after: View
    links: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def picture(pair: Pair, report: Report | None = None) -> Picture:
    """The drawing of a fold. ``report`` (with statistics, if they are to be shown) adds placements and findings."""
    before, after = _Reader(pair.before).view(), _Reader(pair.after).view()
    told = _Told(pair.plan, before, after)
    notes = _Notes(report)
    blocks = blockers(pair.before, pair.plan.remaining)
    drawn = tuple(
        replace(notes.on(told.before(node)), blocks=blocks.get(node.key, ())) if node.kind == OPERATOR else node
        for node in before.nodes
    )
    later = {key for links in told.links.values() for key in links}
    return Picture(
        replace(before, nodes=drawn),
        replace(after, nodes=tuple(told.after(node, node.key in later) for node in after.nodes)),
        told.links,
    )


def plain_view(graph: ModelGraph) -> View:
    """The drawing of a graph by itself."""
    return _Reader(graph).view()


# -- reading a graph -----------------------------------------------------------------------------------


class _Reader:
    """Collects the nodes and edges of a graph and of all subgraphs inside it."""

    def __init__(self, graph: ModelGraph) -> None:
        self._graph = graph
        self._nodes: dict[str, Node] = {}
        self._edges: list[Edge] = []

    def view(self) -> View:
        self._read(self._graph, "", {}, None)
        return View(self._graph.name, tuple(self._nodes.values()), tuple(self._edges))

    def _read(self, graph: ModelGraph, scope: str, outer: Mapping[str, tuple[str, int]], owner: str | None) -> None:
        """One graph. ``outer`` says where the tensors of the graphs around it come from, by node and output."""
        source = dict(outer)
        for tensor in graph.inputs:
            key = _free(graph, scope, f"input {tensor.name}")
            self._nodes[key] = Node(
                key, tensor.name, "input", INPUT, scope, outputs=(tensor.name,), shape=_shape(graph, tensor.name)
            )
            source[tensor.name] = (key, 0)
        ops = graph.ops()
        for op in ops:
            source.update({name: (_key(scope, op.name), slot) for slot, name in enumerate(op.outputs) if name})
        for op in ops:
            self._add(graph, op, scope, source)
        for name in graph.outputs:
            if owner is None and name in source:
                key = _free(graph, scope, f"output {name}")
                self._nodes[key] = Node(key, name, "output", OUTPUT, scope)
                self._edges.append(Edge(source[name][0], key, name, source[name][1], 0))
            elif owner is not None and name in source:
                self._edges.append(Edge(source[name][0], owner, name, source[name][1]))

    def _add(self, graph: ModelGraph, op: Op, scope: str, source: Mapping[str, tuple[str, int]]) -> None:
        key = _key(scope, op.name)
        outputs = tuple(name for name in op.outputs if name)
        for name, body in op.subgraphs.items():
            self._read(body, f"{key}/{name}", source, key)
        first = _shape(graph, outputs[0]) if outputs else ""
        self._nodes[key] = Node(key, op.display, op.type, scope=scope, outputs=outputs, shape=first)
        for slot, tensor in enumerate(op.inputs):
            if tensor in source:
                origin, output = source[tensor]
                self._edges.append(Edge(origin, key, tensor, output, slot))


def _free(graph: ModelGraph, scope: str, name: str) -> str:
    """A key for an input or output that no operator of its graph has."""
    while name in graph:
        name += "'"
    return _key(scope, name)


def _key(scope: str, name: str) -> str:
    return f"{scope}/{name}" if scope else name


def _shape(graph: ModelGraph, name: str) -> str:
    known = graph.known_tensors().get(name)
    if known is None:
        return ""
    dtype = str(known.dtype) if known.dtype is not None else ""
    sizes = "" if known.shape is None else "×".join("?" if size is None else str(size) for size in known.shape)
    return f"{dtype} {sizes}".strip()


# -- what the plan says ---------------------------------------------------------------------------------


class _Told:
    """What a plan says of every node."""

    def __init__(self, plan: Plan, before: View, after: View) -> None:
        self._fates = Fates(plan)
        self._left = {item.subject: item for item in plan.remaining}
        self._here = {node.key for node in before.nodes}
        self._there = {node.key for node in after.nodes}
        self._holders: dict[str, list[FoldStep]] = {}
        self._passed: dict[str, list[FoldStep]] = {}
        named: dict[tuple[str, str], list[str]] = {}
        for node in (*before.nodes, *after.nodes):
            named.setdefault((node.scope, node.label), []).append(node.key)
        for step in plan.steps:
            for key in step.holders:
                self._holders.setdefault(key, []).append(step)
            for table, labels in ((self._passed, step.through), (self._holders, step.repaid)):
                for key in (key for label in labels for key in named.get((step.scope, label), ())):
                    table.setdefault(key, []).append(step)
        self.links = {node.key: self._link(node.key) for node in before.nodes}

    def before(self, node: Node) -> Node:
        fate = self._fates.of(node.key)
        step = self._fates.step(node.key)
        if isinstance(fate, Remaining):
            return replace(node, state=STAYS, fate=fate.sentence())
        if step is not None:
            return replace(node, state=FOLDED, fate=step.sentence())
        if node.key not in self._there:
            return replace(node, state=GONE, fate="not needed any more")
        return self._bystander(node)

    def after(self, node: Node, linked: bool) -> Node:
        left = self._left.get(node.key)
        if left is not None:
            return replace(node, state=STAYS, fate=left.sentence())
        if node.key not in self._here and not linked:
            return replace(node, state=NEW)
        return self._bystander(node)

    def _bystander(self, node: Node) -> Node:
        for state, steps in ((TOOK_IN, self._holders), (THROUGH, self._passed)):
            if node.key in steps:
                told = "; ".join(f"{step.label} ({step.type})" for step in steps[node.key])
                return replace(node, state=state, fate=f"{state}: {told}")
        return node

    def _link(self, key: str) -> tuple[str, ...]:
        """Where the arithmetic of a node is now: in itself, or in those that took it in, and so on."""
        found: dict[str, None] = {}
        seen: set[str] = set()
        pending = [key]
        while pending:
            key = pending.pop(0)
            if key in seen:
                continue
            seen.add(key)
            step = self._fates.step(key)
            if key in self._there:
                found[key] = None
            elif step is not None:
                pending += step.holders
        return tuple(found)


class _Notes:
    """What a report says of every operator."""

    def __init__(self, report: Report | None) -> None:
        items = report.batchnorms if report is not None else ()
        self._sites = {_key(item.scope, item.op): item for item in items}
        self._findings: dict[str, list[tuple[str, str]]] = {}
        for finding in report.findings if report is not None else ():
            if finding.op:
                key = _key(finding.scope, finding.op)
                self._findings.setdefault(key, []).append((finding.code, finding.message))

    def on(self, node: Node) -> Node:
        found = self._findings.get(node.key, ())
        if found:
            codes = tuple(dict.fromkeys(code for code, _ in found))
            node = replace(node, findings=codes, messages=tuple(f"{code} {text}" for code, text in found))
        site = self._sites.get(node.key)
        if site is None:
            return node
        spread = (site.statistics or {}).get("weight_spread_bits")
        bits = (float(spread["before"]), float(spread["after"])) if spread else None
        fate = node.fate or f"{node.label} ({node.type}): {site.foldability.sentence()}"
        state = node.state or ("" if site.foldability.folds else STAYS)
        return replace(node, placement=site.placement.value, fate=fate, state=state, spread_bits=bits)


# -- parts ------------------------------------------------------------------------------------------------


def around(view: View, keys: Iterable[str], depth: int) -> View:
    """The part of a view within ``depth`` edges of the nodes ``keys``, in either direction each."""
    forward: dict[str, list[str]] = {}
    backward: dict[str, list[str]] = {}
    for edge in view.edges:
        forward.setdefault(edge.source, []).append(edge.target)
        backward.setdefault(edge.target, []).append(edge.source)
    start = set(keys)
    kept = set(start)
    for neighbours in (forward, backward):
        rim = start
        for _ in range(depth):
            rim = {other for key in rim for other in neighbours.get(key, ())} - kept
            kept |= rim
    return View(
        view.name,
        tuple(node for node in view.nodes if node.key in kept),
        tuple(edge for edge in view.edges if edge.source in kept and edge.target in kept),
    )
