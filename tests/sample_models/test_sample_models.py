"""The sample models are what their README says they are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import onnx
import pytest

FOLDER = Path(__file__).parents[2] / "sample_models"
ROW = re.compile(r"^\| `(?P<file>[\w.]+)` \| (?P<batchnorms>\d+) \| (?P<accuracy>0\.\d+) \|", re.MULTILINE)
CLAIMS = {row["file"]: int(row["batchnorms"]) for row in ROW.finditer((FOLDER / "README.md").read_text())}
MODELS = sorted(path.name for path in FOLDER.iterdir() if path.suffix in {".onnx", ".keras", ".h5"})
ONNX = [name for name in MODELS if name.endswith(".onnx")]
KERAS = [name for name in MODELS if not name.endswith(".onnx")]


def test_the_readme_names_every_model_and_no_other() -> None:
    assert sorted(CLAIMS) == MODELS
    assert len(ONNX) >= 3
    assert len(KERAS) >= 5


@pytest.mark.parametrize("name", MODELS)
def test_it_is_small(name: str) -> None:
    assert (FOLDER / name).stat().st_size < 500_000


@pytest.mark.parametrize("name", ONNX)
def test_an_onnx_model_holds_the_batchnorms_claimed(name: str) -> None:
    model = onnx.load(FOLDER / name)
    onnx.checker.check_model(model, full_check=True)
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == CLAIMS[name]


@pytest.mark.parametrize("name", ONNX)
def test_an_onnx_model_takes_any_batch(name: str) -> None:
    (image,) = onnx.load(FOLDER / name).graph.input
    assert image.type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.keras
@pytest.mark.parametrize("name", KERAS)
def test_a_keras_model_holds_the_batchnorms_claimed(name: str) -> None:
    import keras

    model = keras.models.load_model(FOLDER / name, compile=False)
    layers = model._flatten_layers(include_self=False)
    assert sum(isinstance(layer, keras.layers.BatchNormalization) for layer in layers) == CLAIMS[name]


@pytest.mark.keras
def test_the_transferred_backbone_is_frozen() -> None:
    import keras

    model = keras.models.load_model(FOLDER / "transfer.keras", compile=False)
    assert not model.get_layer("backbone").trainable_weights
    assert model.get_layer("head_dense").trainable_weights


def test_the_script_can_build_every_model() -> None:
    source = (FOLDER / "build.py").read_text()
    functions = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    assert {Path(name).stem for name in MODELS} <= functions
