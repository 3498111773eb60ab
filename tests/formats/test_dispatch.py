"""formats.load() finds out what it has before it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from onnx_models import conv_bn

from bnfold import formats
from bnfold.errors import ModelFileError, UsageError
from bnfold.formats import keras, load

ROOT = Path(__file__).parents[2]


@pytest.fixture
def to_keras(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, bool]]:
    """What is handed on to the Keras reader, instead of reading it."""
    calls: list[tuple[object, bool]] = []
    monkeypatch.setattr(keras, "load", lambda source, *, allow_unsafe: calls.append((source, allow_unsafe)))
    return calls


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.hdf5", "MODEL.H5", "missing.keras"])
def test_keras_by_suffix(tmp_path, to_keras, name):
    load(tmp_path / name, allow_unsafe=True)
    assert to_keras == [(tmp_path / name, True)]


@pytest.mark.parametrize("sample", ["mlp_mixed.keras", "cnn_legacy.h5"])
def test_keras_by_content(tmp_path, to_keras, sample):
    shutil.copy(ROOT / "sample_models" / sample, tmp_path / "model")
    load(str(tmp_path / "model"))
    assert to_keras == [(str(tmp_path / "model"), False)]


def test_a_saved_model_folder(tmp_path, to_keras):
    (tmp_path / "saved_model.pb").write_bytes(b"")
    load(tmp_path)
    assert to_keras == [(tmp_path, False)]


def test_a_live_model(monkeypatch, to_keras):
    monkeypatch.setattr(keras, "is_keras_model", lambda source: source == ["model"])
    load(["model"])
    assert to_keras == [(["model"], False)]
    with pytest.raises(UsageError, match="not list"):
        load(["no model"])


def test_an_onnx_suffix_is_believed(tmp_path, to_keras):
    shutil.copy(ROOT / "sample_models/mlp_mixed.keras", tmp_path / "model.onnx")
    with pytest.raises(ModelFileError, match="is a zip archive, not an ONNX model"):
        load(tmp_path / "model.onnx")
    onnx.save(conv_bn(), tmp_path / "model.bin")
    assert load(tmp_path / "model.bin").format == "onnx"
    assert not to_keras


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(ModelFileError, match="is a directory, and not a SavedModel"):
        load(tmp_path)


IMPORTS = """
import sys
sys.path.insert(0, {root!r})
import bnfold.formats
assert not {{"numpy", "onnx"}} & set(sys.modules)
bnfold.formats.load(sys.argv[1]).graph.tensor("x")
assert not {{"onnxruntime", "networkx", "keras", "tensorflow", "onnx.reference.ops"}} & set(sys.modules)
"""


def test_reading_onnx_imports_no_more_than_it_needs(tmp_path):
    onnx.save(conv_bn(), tmp_path / "model.onnx")
    code = IMPORTS.format(root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.onnx")], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_a_third_format_is_one_more_name_in_the_list(monkeypatch):
    toy = ModuleType("bnfold.formats.toy")
    toy.recognizes = lambda source: source == "toy.file"
    toy.load = lambda source, *, allow_unsafe: (source, allow_unsafe)
    monkeypatch.setitem(sys.modules, toy.__name__, toy)
    monkeypatch.setattr(formats, "FORMATS", ("toy", *formats.FORMATS))
    assert load("toy.file", allow_unsafe=True) == ("toy.file", True)
    assert load(conv_bn()).format == "onnx"
