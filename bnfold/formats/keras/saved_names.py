"""What a SavedModel's operators are called: by the layers they came from.

An exported function keeps the path of scopes for each operation, ``StatefulPartitionedCall/model_1/conv_1/BiasAdd``.
The calls around the model, the model's own scope and the number that tracing a layer again appends say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

import onnx

_CALLS = re.compile(r"^(?:StatefulPartitionedCall/|PartitionedCall/)+")
_NUMBERED = re.compile(r"^(.+)_\d+$")


def name_by_layers(model: onnx.ModelProto, variables: Iterable[str]) -> None:
    """Rename the nodes of a converted SavedModel; ``variables`` are named ``model/conv/kernel:0``.

    A BatchNormalization is called as its layer. Tensors keep their names.
    """
    layers = {name.rpartition("/")[0].rpartition("/")[2] for name in variables}
    paths = [_CALLS.sub("", node.name).split("/") for node in model.graph.node]
    depth = _model_scopes([path[:-1] for path in paths if len(path) > 1], layers)
    taken: set[str] = set()
    for node, path in zip(model.graph.node, paths, strict=True):
        inner = path[depth:] if len(path) > depth + 1 else path
        name = "/".join(_layer(part, layers) for part in inner[:-1]) + ("/" if len(inner) > 1 else "") + inner[-1]
        if node.op_type == "BatchNormalization":
            name = name.partition("/batchnorm/")[0]
        if name and name not in taken:
            node.name = name
        taken.add(node.name)


def _model_scopes(folders: list[list[str]], layers: Collection[str]) -> int:
    """How many scopes all operations share before the first that is a layer."""
    depth = 0
    while folders and all(len(folder) > depth for folder in folders):
        here = {folder[depth] for folder in folders}
        if len(here) > 1 or _layer(next(iter(here)), layers) in layers:
            break
        depth += 1
    return depth


def _layer(scope: str, layers: Collection[str]) -> str:
    """``dense_1`` is ``dense`` traced again where the model has a layer ``dense`` and none ``dense_1``."""
    numbered = _NUMBERED.match(scope)
    if scope in layers or numbered is None:
        return scope
    return numbered.group(1) if numbered.group(1) in layers else scope
