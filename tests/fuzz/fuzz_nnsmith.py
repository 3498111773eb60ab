"""Differential testing on the graphs of NNSmith (ASPLOS 2023), which knows nothing of bnfold.

    pip install nnsmith "z3-solver<4.13" torch        # in an environment of its own
    python tests/fuzz/fuzz_nnsmith.py --count 300 --seed 1

NNSmith 0.1.0 draws operators with valid shapes by an SMT solver and exports them with PyTorch's
tracing exporter. Two graphs in three are drawn from the operators that folding knows, and every graph gets
some batch normalizations more, so that there is something to do. It is folded, and both models run in
onnxruntime, optimisations off. Graphs that differ are written to ``--keep FOLDER``.
"""

from __future__ import annotations

import argparse
import random
import sys
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from agreement import Outcome, fold_and_compare  # noqa: E402
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper  # noqa: E402
from onnx.shape_inference import infer_shapes  # noqa: E402

#: The operators that folding moves, moves through or moves into.
KNOWN = {
    "Add", "Sub", "Mul", "Div", "Neg", "ReLU", "LeakyReLU", "PReLU", "MaxPool2d", "AvgPool2d", "Slice", "ConstPad",
    "ReflectPad", "ReplicatePad", "BatchNorm2d", "Conv1d", "NCHWConv2d", "Transpose", "Reshape", "Squeeze", "Flatten",
    "Concat1", "Concat2", "Concat3", "Linear", "PTMatMul", "ReduceMean", "ReduceMax", "TorchReduceSum", "ExpandLast1",
    "ExpandLast2", "NearestInterp", "LinearInterp", "BilinearInterp", "Sigmoid", "Clip",
}  # fmt: skip


def prepare() -> tuple[Any, list[Any]]:
    """NNSmith's ONNX models and the operators that export here. The exporter must leave BN alone."""
    export = torch.onnx.export

    def keeping_batchnorms(*arguments: Any, **options: Any) -> Any:
        options |= {"dynamo": False, "training": torch.onnx.TrainingMode.PRESERVE}
        return export(*arguments, **options)

    torch.onnx.export = keeping_batchnorms
    from nnsmith.abstract.extension import activate_ext
    from nnsmith.materialize import Model
    from nnsmith.narrow_spec import auto_opset

    kind = Model.init("onnx", backend_target="cpu")
    kind.add_seed_setter()
    operators = auto_opset(kind, None)
    activate_ext(opset=operators, factory=None)
    return kind, operators


def draw(kind: Any, operators: list[Any], seed: int, size: int) -> ModelProto:
    """One graph. Batch norms get statistics, which are 0 and 1 as PyTorch makes them."""
    from nnsmith.graph_gen import model_gen

    random.seed(seed)
    torch.manual_seed(seed)
    chosen, types = operators, None
    if seed % 3:
        chosen, types = [op for op in operators if op.name().rpartition(".")[2] in KNOWN], ["f32"]
    drawn = model_gen(
        opset=chosen, method="symbolic-cinit", seed=seed, max_nodes=size, max_elem_per_tensor=4096, timeout_ms=5000,
        dtype_choices=types,
    )  # fmt: skip
    model = kind.from_gir(drawn.make_concrete())
    for module in model.torch_model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                torch.nn.init.normal_(tensor)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    model.refine_weights()
    return model.onnx_model


def with_batchnorms(model: ModelProto, seed: int) -> ModelProto:
    """The graph with a BatchNormalization behind about a third of its float tensors, for folding to work on."""
    rng = np.random.default_rng(seed)
    known = {value.name: value.type.tensor_type for value in infer_shapes(model).graph.value_info}
    graph, nodes = model.graph, []
    for node in graph.node:
        nodes.append(node)
        for index, name in enumerate(node.output):
            kind = known.get(name)
            shape = [dim.dim_value for dim in kind.shape.dim] if kind is not None else []
            if kind is None or kind.elem_type != TensorProto.FLOAT or len(shape) < 2 or not all(shape):
                continue
            if rng.random() < 0.35:
                node.output[index] = f"{name}_raw"
                parameters = [rng.normal(size=shape[1]), rng.normal(size=shape[1]), rng.normal(size=shape[1])]
                parameters.append(rng.uniform(0.5, 1.5, shape[1]))
                names = [f"{name}_bn_{part}" for part in range(4)]
                for part, values in zip(names, parameters, strict=True):
                    graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), part))
                nodes.append(helper.make_node("BatchNormalization", [f"{name}_raw", *names], [name], name=f"{name}_bn"))
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    return model


def one(model: ModelProto, seed: int) -> Outcome:
    """Fold one graph and compare."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        drawn = (
            rng.uniform(-2, 2, shape) if dtype.kind == "f" else rng.integers(0 if dtype.kind == "b" else 1, 2, shape)
        )
        feeds[value.name] = np.asarray(drawn).astype(dtype)
    return fold_and_compare(model, feeds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="the first graph's; the others follow")
    parser.add_argument("--size", type=int, default=12, help="operators in a graph")
    parser.add_argument("--keep", type=Path, help="write graphs that differ to this folder")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    kind, operators = prepare()
    counts: Counter[str] = Counter()
    batchnorms = steps = 0
    for seed in range(options.seed, options.seed + options.count):
        try:
            model = with_batchnorms(draw(kind, operators, seed, options.size), seed)
        except Exception as error:  # noqa: BLE001  the solver or the exporter gave up
            counts[f"not drawn ({type(error).__name__})"] += 1
            continue
        try:
            found = one(model, seed)
        except Exception:  # noqa: BLE001  this is what is looked for
            found = Outcome("RAISED", 0, traceback.format_exc())
        counts[found.verdict] += 1
        steps += found.steps
        batchnorms += sum(node.op_type == "BatchNormalization" for node in model.graph.node)
        if found.verdict.isupper():
            print(f"seed {seed}: {found.verdict} {found.detail}", flush=True)
            if options.keep:
                options.keep.mkdir(exist_ok=True)
                (options.keep / f"nnsmith_{seed}.onnx").write_bytes(model.SerializeToString())
    print(f"{options.count} graphs, {batchnorms} BN, {steps} steps: {dict(counts.most_common())}")
    return int(any(verdict.isupper() for verdict in counts))


if __name__ == "__main__":
    sys.exit(main())
