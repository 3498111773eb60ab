"""A toy format, ``.toy``: a row of layers as JSON. CONTRIBUTING.md's example of a new file format.

The file is ``{"inputs": 3, "layers": [{"type": "dense", "kernel": [[…]], "bias": […]}, …]}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from toy_operators import DOMAIN, TOY

from bnfold.errors import ModelFileError, UsageError
from bnfold.formats.atomic import StagedFile, reason, staged_file
from bnfold.graph import Computed, Exact, ModelGraph, Op, Param, ParameterAccount, Tensor
from bnfold.temporary import temporary_name

#: The arrays of each layer, in the order of the input slots behind the data.
ARRAYS = {"dense": ("kernel", "bias"), "norm": ("gamma", "beta", "mean", "variance"), "relu": ()}
FLOAT = np.dtype(np.float32)


def recognizes(source: object) -> bool:
    """Is this a path with the suffix ``.toy``?"""
    return isinstance(source, (str, PathLike)) and Path(source).suffix == ".toy"


def load(source: str | PathLike[str], *, allow_unsafe: bool = False) -> ToyModel:
    """Read a file. It brings no code, so ``allow_unsafe`` changes nothing. Raises ModelFileError."""
    path = Path(source)
    try:
        data = json.loads(path.read_bytes())
        return ToyModel(_read(data["inputs"], data["layers"]), path)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {reason(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{path} is damaged, or not a toy: {error}") from error


def _read(size: int, layers: Sequence[dict[str, Any]]) -> ModelGraph:
    graph = ModelGraph(name="toy", dialect=TOY)
    data = "x"
    graph.inputs = [Tensor(data, FLOAT, ("N", size))]
    for number, layer in enumerate(layers):
        kind = layer["type"]
        name, inputs = f"{kind}_{number}", [data]
        for key in ARRAYS[kind]:
            param = Param.of(f"{name}_{key}", np.asarray(layer[key], FLOAT))
            graph.params[param.name] = param
            inputs.append(param.name)
        data = f"{name}_out"
        size = len(layer["bias"]) if kind == "dense" else size
        graph.put(Op(name, kind, tuple(inputs), (data,), domain=DOMAIN, label=name))
        graph.declare(Tensor(data, FLOAT, ("N", size)))
    graph.outputs = [data]
    return graph


class ToyModel:
    """Implements :class:`bnfold.graph.ConvertedModel`, whose docstrings say what each of these is for."""

    format = TOY.name
    is_onnx = False
    trainable = None

    def __init__(self, graph: ModelGraph, path: Path | None) -> None:
        self.graph = graph
        self.path = path

    def with_graph(self, graph: ModelGraph) -> ToyModel:
        return ToyModel(graph, self.path)

    def inlined(self) -> ToyModel:
        return self

    def parameter_account(self) -> ParameterAccount | None:
        return None

    def check_target(self, path: Path) -> None:
        if path.suffix not in (".toy", ".onnx"):
            raise UsageError(f"{path.name}: a toy is written as .toy or .onnx; the suffix decides")

    def converts_to(self, path: Path) -> bool:
        return path.suffix == ".onnx"

    def save(self, path: str | PathLike[str]) -> None:
        with self.stage(path) as staged:
            staged.commit()

    @contextmanager
    def stage(self, path: str | PathLike[str], *, external_data: bool | None = None) -> Iterator[StagedFile]:
        self.check_target(Path(path))
        with staged_file(path) as staged:
            with staged.writing() as out:
                out.write(self._onnx() if self.converts_to(Path(path)) else self._json())
            yield staged

    def as_onnx(self, directory: Path) -> Path:
        path = directory / temporary_name(".onnx")
        path.write_bytes(self._onnx())
        return path

    def unrounded(self) -> dict[str, Exact]:
        return {}

    def unrounded_in_onnx(self, known: Mapping[str, Exact]) -> dict[str, Exact]:
        return {}

    def computed_in_onnx(self) -> dict[str, Computed]:
        return {}

    def _json(self) -> bytes:
        layers = []
        for op in self.graph.ops():
            names = zip(ARRAYS[op.type], op.inputs[1:], strict=True)
            layers.append({"type": op.type, **{key: self.graph.params[name].array().tolist() for key, name in names}})
        (data,) = self.graph.inputs
        assert data.shape is not None
        return json.dumps({"inputs": data.shape[1], "layers": layers}).encode()

    def _onnx(self) -> bytes:
        from onnx import TensorProto, helper, numpy_helper

        kinds = {"dense": "Gemm", "norm": "BatchNormalization", "relu": "Relu"}
        nodes = [helper.make_node(kinds[op.type], op.inputs, op.outputs) for op in self.graph.ops()]
        for node in nodes:
            if node.op_type == "BatchNormalization":
                node.attribute.append(helper.make_attribute("epsilon", 0.0))
        weights = [numpy_helper.from_array(param.array(), name) for name, param in self.graph.params.items()]
        inputs, outputs = (
            [helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.shape) for tensor in tensors]
            for tensors in (self.graph.inputs, map(self.graph.tensor, self.graph.outputs))
        )
        graph = helper.make_graph(nodes, "toy", inputs, outputs, weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return bytes(model.SerializeToString())
