"""pytest-benchmark for the inner pieces: what a fold is made of.

pytest benchmarks/bench_pieces.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from harness.synthetic import with_bytes, with_nodes

from bnfold.affine import Affine
from bnfold.analysis import analyze_graph, select_rules
from bnfold.folding import fold_graph
from bnfold.formats.onnx import load
from bnfold.formats.onnx.wire import split
from bnfold.graph import Param

NODES = 3_000
BYTES = 50_000_000


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deep") / "model.onnx"
    with_nodes(NODES, path)
    return path


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("heavy") / "model.onnx"
    with_bytes(BYTES, path)
    return path


def test_walk_the_wire_format(benchmark: Any, heavy: Path) -> None:
    data = heavy.read_bytes()
    skeleton = benchmark(split, data, len(data))
    assert len(skeleton.data) < BYTES / 100


def test_parse_with_onnx(benchmark: Any, heavy: Path) -> None:
    """For comparison with :func:`test_walk_the_wire_format`."""
    benchmark(onnx.load_model_from_string, heavy.read_bytes())


def test_load_many_nodes(benchmark: Any, deep: Path) -> None:
    assert len(benchmark(load, deep).graph) >= NODES


def test_load_many_bytes(benchmark: Any, heavy: Path) -> None:
    benchmark(load, heavy)


def test_search(benchmark: Any, deep: Path) -> None:
    model = load(deep)
    _, plan = benchmark(fold_graph, model.graph)
    assert not plan.remaining


def test_rules(benchmark: Any, deep: Path) -> None:
    model = load(deep)
    benchmark(analyze_graph, model.graph, name="deep", rules=select_rules(None, None))


def test_write_what_changed(benchmark: Any, heavy: Path, tmp_path: Path) -> None:
    model = load(heavy)
    graph, _ = fold_graph(model.graph)
    benchmark(model.with_graph(graph).save, tmp_path / "out.onnx")


def test_write_what_did_not_change(benchmark: Any, heavy: Path, tmp_path: Path) -> None:
    benchmark(load(heavy).save, tmp_path / "out.onnx")


def test_compose_affines(benchmark: Any) -> None:
    rng = np.random.default_rng(0)
    first, second = (Affine(rng.uniform(0.5, 1.5, 1024), rng.standard_normal(1024), 1) for _ in range(2))
    benchmark(first.then, second)


def test_scale_a_weight(benchmark: Any) -> None:
    rng = np.random.default_rng(0)
    weight = Param.of("weight", rng.standard_normal((1024, 1024, 3, 3)).astype(np.float32))
    scaled = weight.scaled(rng.uniform(0.5, 1.5, (1024, 1, 1, 1)))
    benchmark(lambda: sum(block.nbytes for block in scaled.blocks()))
