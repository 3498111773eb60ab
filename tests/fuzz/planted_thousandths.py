"""Random graphs folded right, and folded with one channel of one weight a thousandth off: what verification says.

    python tests/fuzz/planted_thousandths.py float16 0 500
    python tests/fuzz/planted_thousandths.py float16 0 20 45      # of up to 45 operators, in place of 12

In the end one line: how many right folds were rejected, how many faults were seen, and how many were not though
they change a tensor that the original has too. A fault that changes none, in a channel that is zero or that nothing
reads, is none.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parents[1])]

import ml_dtypes  # noqa: E402
import numpy as np  # noqa: E402
from graph_choices import Seeded  # noqa: E402
from helpers import Net  # noqa: E402
from onnx import ModelProto, helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from random_graphs import grow  # noqa: E402

import bnfold  # noqa: E402
from bnfold.graph import Param  # noqa: E402
from bnfold.verification import Verification, VerifyOptions, verify  # noqa: E402

#: Right folds of models that onnxruntime does not run and float64 does not know are not verified.
RIGHT = ("equal", "within rounding", "not verified")


def outcomes(dtype: str, seed: int, size: int = 12) -> Iterator[tuple[str, str]]:
    """One verdict for the right fold and one for each fault, with what is to be said of it."""
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    model = grow(Net(opset=17, seed=seed, dtype=kind), Seeded(seed), size=size)
    result = bnfold.fold(model)
    if not result.plan.steps:
        return
    right = result.model.to_proto()
    check = _verified(model, result.model)
    yield ("right" if check.verdict in RIGHT else "REJECTED"), check.sentence()
    params = result.model.graph.params
    for name, param in list(params.items()):
        off = _off_by_a_thousandth(param)
        if off is None or check.verdict == "not verified":
            continue
        params[name] = off
        wrong = _verified(model, result.model)
        try:
            dead = wrong.equivalent and _same_everywhere(model, right, result.model.to_proto())
            verdict = "caught" if not wrong.equivalent else "dead" if dead else "MISSED"
        except (
            ValueError,
            RuntimeError,
        ):  # the reference has not all: no ConvTranspose in groups, no old DequantizeLinear
            verdict = "undecided"
        params[name] = param
        yield verdict, f"{name}: {wrong.sentence()}"


def _verified(model: ModelProto, other: Any) -> Verification:
    return verify(model, other, VerifyOptions(intermediates=True, feeds=4))


def _off_by_a_thousandth(param: Param) -> Param | None:
    """The largest channel along the longest axis, if folding has computed this weight."""
    if not (param.is_float and param.is_rounded) or not param.shape:
        return None
    axis = int(np.argmax(param.shape))
    others = tuple(other for other in range(len(param.shape)) if other != axis)
    size = np.abs(param.exact()).max(axis=others)
    factor = np.where(np.arange(size.size) == size.argmax(), 1.001, 1.0)
    factor = factor.reshape([-1 if other == axis else 1 for other in range(len(param.shape))])
    return param.scaled(factor) if size.any() else None


def _same_everywhere(original: ModelProto, right: ModelProto, wrong: ModelProto) -> bool:
    """Whether onnx's reference implementation gives every tensor of the original the same in both, to the last bit."""
    shared = {name for node in original.graph.node for name in node.output}
    values = []
    for model in (right, wrong):
        whole = ModelProto.FromString(model.SerializeToString())
        known = {value.name for value in whole.graph.output}
        names = [name for node in whole.graph.node for name in node.output if name in shared - known]
        whole.graph.output.extend(
            helper.make_value_info(name, helper.make_tensor_type_proto(1, None)) for name in names
        )
        held = {tensor.name for tensor in whole.graph.initializer}
        rng = np.random.default_rng(0)
        feed = {}
        for value in whole.graph.input:
            if value.name not in held:
                shape = [dim.dim_value or 2 for dim in value.type.tensor_type.shape.dim]
                dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
                feed[value.name] = rng.standard_normal(shape).astype(dtype)
        values.append(ReferenceEvaluator(whole).run(None, feed))
    return all(np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f") for a, b in zip(*values, strict=True))


def main(dtype: str, first: int, count: int, size: int = 12) -> int:
    counts: Counter[str] = Counter()
    for seed in range(first, first + count):
        for verdict, words in outcomes(dtype, seed, size):
            counts[verdict] += 1
            if verdict.isupper():
                print(f"{seed}: {verdict} {words}", flush=True)
    print(f"{dtype}: {dict(counts)}")
    return int(counts["REJECTED"] + counts["MISSED"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
