"""The models of the onnx package's own backend tests, with their inputs and the outputs they must give.

    python tests/fuzz/backend_models.py        # all of them

Each is folded as it is and compared with the stored outputs. Most are a single operator whose parameters are
inputs, which leaves nothing to fold; so each is also folded with every input but the first made a
constant and a BatchNormalization before and behind it, and compared with itself in onnxruntime. That takes
every operator of the ONNX standard, in every form its tests know, through the search.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnx.backend.test.case.node  # noqa: E402
from agreement import Outcome, difference, fold_and_compare, session  # noqa: E402
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper  # noqa: E402

import bnfold  # noqa: E402

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"


class Case(NamedTuple):
    name: str
    model: ModelProto
    inputs: list[Any]
    outputs: list[Any]


def cases() -> Iterator[Case]:
    """Those whose inputs and outputs are tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = onnx.backend.test.case.node.collect_testcases(None)
    for case in sorted(found, key=lambda case: str(case.name)):
        if case.model is not None and case.data_sets:
            inputs, outputs = case.data_sets[0]
            if all(isinstance(value, np.ndarray) for value in (*inputs, *outputs)):
                yield Case(case.name, case.model, list(inputs), list(outputs))
    for kind in ("simple", "pytorch-converted", "pytorch-operator"):
        for folder in sorted((DATA / kind).iterdir()):
            data = folder / "test_data_set_0"
            if data.is_dir():
                model = onnx.load(folder / "model.onnx")
                yield Case(f"{kind}/{folder.name}", model, _stored(data, "input"), _stored(data, "output"))


def _stored(folder: Path, kind: str) -> list[Any]:
    files = sorted(folder.glob(f"{kind}_*.pb"), key=lambda path: int(path.stem.rpartition("_")[2]))
    return [numpy_helper.to_array(TensorProto.FromString(path.read_bytes())) for path in files]


def as_stored(case: Case) -> Outcome:
    """The folded model gives the stored outputs, as far as the runtime gives them for the original."""
    result = bnfold.fold(case.model)
    names = [value.name for value in case.model.graph.input]
    feeds = {name: np.asarray(value) for name, value in zip(names, case.inputs, strict=False)}
    try:
        expected = session(case.model).run(None, feeds)
    except Exception as error:  # noqa: BLE001  onnxruntime's own exceptions have no common base
        return Outcome("unrunnable", 0, str(error).splitlines()[0])
    actual = session(result.model.to_proto()).run(None, feeds)
    off = [max(map(difference, case.outputs, found), default=0.0) for found in (expected, actual)]
    steps = len(result.plan.steps)
    return Outcome("same" if off[1] <= max(1.0, 1.1 * off[0]) else "DIFFERENT", steps, f"{off}")


def surrounded(case: Case, seed: int) -> tuple[ModelProto, dict[str, Any]] | None:
    """The model between batch normalizations, its parameters constant. None where none can be added."""
    model, rng = ModelProto.FromString(case.model.SerializeToString()), np.random.default_rng(seed)
    graph, names = model.graph, [value.name for value in model.graph.input]
    feeds = dict(zip(names, case.inputs, strict=False))
    first = next((name for name, value in feeds.items() if _fits(value)), None)
    behind = [(v.name, out) for v, out in zip(graph.output, case.outputs, strict=True) if _fits(out)]
    if first is None or "" not in {"" if entry.domain == "ai.onnx" else entry.domain for entry in model.opset_import}:
        return None
    renamed = {name: f"{name}_inside" for name in (first, *(name for name, _ in behind))}
    nodes = [_batchnorm(graph, first, renamed[first], feeds[first].shape[1], rng)]
    for node in graph.node:
        inner = NodeProto.FromString(node.SerializeToString())
        for slots in (inner.input, inner.output):
            slots[:] = [renamed.get(name, name) for name in slots]
        nodes.append(inner)
    nodes += [_batchnorm(graph, renamed[name], name, out.shape[1], rng) for name, out in behind]
    for name, value in feeds.items():
        if name != first:
            graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    inputs = [value for value in graph.input if value.name == first]
    del graph.node[:], graph.input[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 8)
    return model, {first: feeds[first]}


def _fits(value: Any) -> bool:
    array = np.asarray(value)
    return array.dtype == np.float32 and array.ndim >= 2 and array.shape[1] > 0


def _batchnorm(graph: Any, source: str, target: str, channels: int, rng: np.random.Generator) -> NodeProto:
    """Appends the parameters; every other one has a scale below zero."""
    scale = rng.uniform(0.5, 1.5, channels) * (rng.choice([-1, 1], channels) if rng.random() < 0.5 else 1)
    shift = rng.normal(size=channels) * (rng.random() < 0.7)
    values = [scale, shift, np.zeros(channels), np.ones(channels)]
    names = [f"{target}_bn_{part}" for part in range(4)]
    for name, value in zip(names, values, strict=True):
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return helper.make_node("BatchNormalization", [source, *names], [target], name=f"{target}_bn", epsilon=0.0)


def main() -> int:
    counts: Counter[str] = Counter()
    steps = 0
    for number, case in enumerate(cases()):
        for form in ("stored", "surrounded"):
            built = surrounded(case, number) if form == "surrounded" else None
            if form == "surrounded" and built is None:
                continue
            try:
                found = fold_and_compare(*built) if built else as_stored(case)
            except Exception as error:  # noqa: BLE001  this is what is looked for
                found = Outcome("RAISED", 0, f"{type(error).__name__}: {error}"[:300])
            counts[f"{form}: {found.verdict}"] += 1
            steps += found.steps
            if found.verdict.isupper():
                print(f"{case.name} ({form}): {found.verdict} {found.detail}", flush=True)
    print(f"{steps} steps; {dict(counts)}")
    return int(any(key.rpartition(" ")[2].isupper() for key in counts))


if __name__ == "__main__":
    sys.exit(main())
