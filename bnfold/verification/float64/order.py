"""Nodes in topological order: a file need not have them so, and onnxruntime accepts it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import NodeProto


def sorted_nodes(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Every node behind those whose outputs it reads, also in subgraphs; otherwise in the given order."""
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    needs = [{producer[name] for name in _reads(node) if name in producer} - {i} for i, node in enumerate(nodes)]
    if all(not need or max(need) < index for index, need in enumerate(needs)):
        return list(nodes)
    readers: dict[int, list[int]] = {}
    for index, need in enumerate(needs):
        for other in need:
            readers.setdefault(other, []).append(index)
    ready = deque(index for index, need in enumerate(needs) if not need)
    order = []
    while ready:
        index = ready.popleft()
        order.append(nodes[index])
        for reader in readers.get(index, ()):
            needs[reader].discard(index)
            if not needs[reader]:
                ready.append(reader)
    return order


def _reads(node: NodeProto) -> Iterator[str]:
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                yield from _reads(inner)
            yield from (value.name for value in graph.output)
