"""Operators that draw at random: made to draw the same numbers in two models, and in every run.

onnxruntime seeds an operator without a seed of its own by its place in the graph, which a rewriting changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from bnfold.verification.feeds.hints import graphs
from bnfold.verification.runtime.onnx_file import OnnxFile

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: Operators that draw, and the largest seed that is a whole number in their attribute of type float32.
_DRAWING = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_SEEDS = 1 << 24


def drawing(model: ModelProto) -> list[NodeProto]:
    """The operators of the model that draw at random, in subgraphs too."""
    return [node for graph in graphs(model.graph) for node in graph.node if node.op_type in _DRAWING]


def seeded(model: OnnxFile, folder: Path) -> OnnxFile:
    """The model, or a copy in ``folder`` whose operators without a seed have one by the name of their output."""
    from onnx import helper

    if not drawing(model.skeleton):
        return model
    proto = model.load(external=False)
    for node in drawing(proto):
        if not any(attribute.name == "seed" for attribute in node.attribute):
            node.attribute.append(helper.make_attribute("seed", float(crc32(node.output[0].encode()) % _SEEDS)))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "seeded.onnx"
    path.write_bytes(proto.SerializeToString())
    copy = OnnxFile(path, model.name)
    copy.draws, copy.folder, copy.unrounded, copy.computed = True, model.folder, model.unrounded, model.computed
    return copy
