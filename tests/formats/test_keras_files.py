"""Keras files that are damaged, unsafe or no models: one sentence each. And those that load."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import Input, layers
from keras_models import conv_bn_relu, feeds, randomised

from bnfold import isolation
from bnfold.errors import MissingExtraError, ModelFileError, UsageError
from bnfold.formats.keras import backend, files, inspection, load

FOLDER = Path(__file__).parents[2] / "sample_models"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "model.keras"
    randomised(conv_bn_relu()).save(path)
    return path


@pytest.fixture
def hdf5(tmp_path: Path) -> Path:
    path = tmp_path / "model.h5"
    randomised(conv_bn_relu()).save(path)
    return path


def fails(path: Path, words: str, by: Callable[..., object] = load, **options: Any) -> None:
    """Loading raises one sentence that names the file and says ``words``."""
    with pytest.raises(ModelFileError, match=words) as caught:
        by(path, **options)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    assert len(sentence) < 400 + len(str(path))


def unreadable(path: Path, words: str) -> None:
    """The same of the inspection alone, which is quicker within this process."""
    fails(path, words, by=inspection.inspect)


def repack(path: Path, **members: bytes | None) -> None:
    """Rewrite an archive with members replaced, added (``config_json`` stands for config.json) or left out."""
    with zipfile.ZipFile(path) as old:
        content = {name: old.read(name) for name in old.namelist()}
    for key, value in members.items():
        name = {"config_json": "config.json", "weights": "model.weights.h5"}.get(key, key)
        content.pop(name, None)
        if value is not None:
            content[name] = value
    with zipfile.ZipFile(path, "w") as new:
        for name, value in content.items():
            new.writestr(name, value)


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change a file's model configuration in place."""
    if path.suffix == ".keras":
        config = json.loads(zipfile.ZipFile(path).read("config.json"))
        change(config)
        repack(path, config_json=json.dumps(config).encode())
        return
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        change(config)
        file.attrs["model_config"] = json.dumps(config)


def layer_config(config: Any, name: str) -> Any:
    (found,) = [item for item in inspection.objects(config) if inspection.layer_name(item) == name]
    return found


# -- what loads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["archive", "hdf5"])
def test_a_file_gives_the_model_that_was_saved(kind: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind)
    loaded = load(path)
    assert loaded.path == path
    assert loaded.format == "keras"
    inputs = feeds(loaded)
    expected = keras.models.load_model(path, compile=False).predict_on_batch(inputs["image"])
    np.testing.assert_array_equal(loaded.predict(inputs)[0], expected)


def test_the_content_decides_not_the_suffix(archive: Path, hdf5: Path) -> None:
    for path, other in ((archive, "model.bin"), (hdf5, "model.keras_old")):
        renamed = path.rename(path.with_name(other))
        assert len(load(renamed).graph) == 6


def test_nothing_stays_compiled(tmp_path: Path) -> None:
    model = conv_bn_relu()
    model.compile("adam", "mse")
    model.save(tmp_path / "model.keras")
    assert not load(tmp_path / "model.keras").keras_model.compiled


# -- damaged -----------------------------------------------------------------------------------------------------


def test_a_missing_file(tmp_path: Path) -> None:
    fails(tmp_path / "none.keras", "does not exist")


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.keras"
    path.touch()
    unreadable(path, "is empty")


def test_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "text.keras"
    path.write_text("a model of restraint")
    unreadable(path, "neither a zip archive nor an HDF5 file")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["archive", "hdf5"])
def test_a_truncated_file(kind: str, keep: float, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    unreadable(path, "damaged")


@pytest.mark.parametrize("kind", ["archive", "hdf5"])
def test_flipped_bytes_never_escape_as_another_error(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = request.getfixturevalue(kind)
    content = path.read_bytes()
    random = np.random.default_rng(0)
    monkeypatch.setattr(inspection, "_SECONDS", 1.5)
    for _ in range(8):
        broken = bytearray(content)
        for at in random.integers(0, len(content), 8):
            broken[at] = random.integers(0, 256)
        path.write_bytes(broken)
        try:
            load(path)
        except ModelFileError as error:
            assert "\n" not in str(error)  # noqa: PT017 - most flips only change a weight, and load


def test_an_archive_without_its_parts(archive: Path) -> None:
    repack(archive, weights=None)
    unreadable(archive, "not its weights")
    repack(archive, config_json=None)
    unreadable(archive, r"holds no config\.json")


def test_a_configuration_that_is_none(archive: Path) -> None:
    deep = b'{"class_name": "Sequential", "config": ' + b"[" * 500 + b"]" * 500 + b"}"
    for text in (b"{", b"[1, 2]", b'{"a": 1}', b"[" * 100_000, deep):
        repack(archive, config_json=text)
        unreadable(archive, "configuration")


def test_weights_of_another_model(archive: Path, tmp_path: Path) -> None:
    x = Input((8, 8, 3))
    other = tmp_path / "other.keras"
    keras.Model(x, layers.Conv2D(9, 3)(x)).save(other)
    repack(archive, weights=zipfile.ZipFile(other).read("model.weights.h5"))
    fails(archive, "weights stored in it do not fit")


def test_hdf5_weights_of_another_model(hdf5: Path) -> None:
    with h5py.File(hdf5, "r+") as file:
        del file["model_weights"]["conv"]["conv"]["kernel"]
        file["model_weights"]["conv"]["conv"]["kernel"] = np.zeros((3, 3, 3, 5), np.float32)
    fails(hdf5, "weights stored in it do not fit")


def test_an_hdf5_file_without_the_weights(hdf5: Path) -> None:
    with h5py.File(hdf5, "r+") as file:
        del file["model_weights"]
    unreadable(hdf5, "but not its weights")


def test_an_hdf5_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file["table"] = np.arange(5)
    unreadable(path, "HDF5 file, but not a Keras model")


def test_weights_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.weights.h5"
    conv_bn_relu().save_weights(path)
    unreadable(path, "weights alone")


def test_keras_2_weights_alone(tmp_path: Path, hdf5: Path) -> None:
    path = tmp_path / "weights.h5"
    with h5py.File(hdf5) as model, h5py.File(path, "w") as file:
        for name in model["model_weights"]:
            model.copy(f"model_weights/{name}", file)
        file.attrs["layer_names"] = model["model_weights"].attrs["layer_names"]
    unreadable(path, "weights alone")


def test_a_folder_that_is_no_saved_model(tmp_path: Path) -> None:
    fails(tmp_path, "not a TensorFlow SavedModel")


def test_sizes_beyond_the_stored_weights_are_refused_before_memory_is_taken(archive: Path) -> None:
    edit(archive, lambda config: layer_config(config, "classes")["config"].update(units=10**12))
    fails(archive, "units=1000000000000, but no stored weight")


def test_a_file_on_which_the_hdf5_library_never_returns(hdf5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = hdf5.read_bytes()
    heap = content.index(b"GCOL")  # objects of size zero in the heap of strings are walked over for ever
    hdf5.write_bytes(content[: heap + 16] + bytes(4080) + content[heap + 4096 :])
    monkeypatch.setattr(inspection, "_SECONDS", 1.0)
    fails(hdf5, "does not come to an end")


def test_a_crash_of_the_hdf5_library_does_not_reach_the_caller(hdf5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_CHILD", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    fails(hdf5, r"crashes the HDF5 library \(signal 9\)")


def test_a_failed_inspection_is_an_internal_error(hdf5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_CHILD", "raise SystemError('oh')")
    with pytest.raises(RuntimeError, match="SystemError: oh"):
        load(hdf5)


# -- made to do harm ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "assets/../../outside", "C:\\outside", "..\\outside"])
def test_a_member_that_leaves_the_archive(archive: Path, name: str) -> None:
    repack(archive, **{name: b"x"})
    unreadable(archive, "points outside")


def test_a_member_that_is_a_link(archive: Path) -> None:
    link = zipfile.ZipInfo("assets")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(link, "/etc")
    unreadable(archive, "symbolic link")


def test_a_member_that_is_there_twice(archive: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(archive, "a") as file:
        file.writestr("config.json", "{}")
    unreadable(archive, "twice")


def test_a_zip_bomb(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("assets/zeros", bytes(1 << 22))
    inspection.inspect(archive)
    monkeypatch.setattr(inspection, "_SMALL_BYTES", 1 << 16)
    unreadable(archive, "unpacks from")


def test_an_hdf5_bomb(hdf5: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(hdf5, "r+") as file:
        file.create_dataset("zeros", shape=(1 << 40,), dtype="f4", chunks=(1 << 10,))
    unreadable(hdf5, "unpacks from")
    repack(archive, weights=hdf5.read_bytes())
    unreadable(archive, "unpacks from")


@pytest.mark.parametrize("kind", ["external", "soft", "raw", "virtual"])
def test_hdf5_data_that_lie_elsewhere(kind: str, hdf5: Path, archive: Path, tmp_path: Path) -> None:
    with h5py.File(hdf5, "r+") as file:
        group = file["model_weights"]["conv"]
        if kind == "external":
            group["secret"] = h5py.ExternalLink("/etc/passwd", "/")
        elif kind == "soft":
            group["secret"] = h5py.SoftLink("/model_weights")
        elif kind == "raw":
            group.create_dataset("secret", (4,), "u1", external=[("/etc/passwd", 0, 4)])
        else:
            layout = h5py.VirtualLayout((4,), "u1")
            layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "data", (4,))
            group.create_virtual_dataset("secret", layout)
    unreadable(hdf5, "refused")
    repack(archive, weights=hdf5.read_bytes())
    unreadable(archive, "refused")


def test_a_group_that_contains_itself_ends(hdf5: Path) -> None:
    with h5py.File(hdf5, "r+") as file:
        file["model_weights"]["again"] = file["model_weights"]
    assert len(load(hdf5).graph) == 6


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_lambda_layer_runs_only_if_allowed(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"lambda{suffix}"
    stack = [Input((4,)), layers.Lambda(lambda x: x * 2, name="double", output_shape=(4,)), layers.Dense(3)]
    keras.Sequential(stack).save(path)
    fails(path, r"'double' \(Lambda\).*--allow-unsafe")
    loaded = load(path, allow_unsafe=True)
    assert [op.type for op in loaded.graph.ops()] == ["Lambda", "Dense"]


def test_a_lambda_hidden_in_another_layer_is_found(tmp_path: Path) -> None:
    path = tmp_path / "hidden.keras"
    inner = keras.Sequential([Input((4,)), layers.Lambda(lambda x: x, name="deep", output_shape=(4,))])
    keras.Sequential([Input((5, 4)), layers.TimeDistributed(inner)]).save(path)
    fails(path, "'deep'")


# -- custom classes ----------------------------------------------------------------------------------------------


class Halving(layers.Layer):
    def call(self, inputs):
        return inputs / 2


def save_with_halving(path: Path) -> None:
    keras.Sequential([Input((4,)), Halving(name="half"), layers.Dense(3)]).save(path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_an_unknown_class_is_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"custom{suffix}"
    save_with_halving(path)
    if suffix == ".keras":
        edit(path, lambda config: layer_config(config, "half").update(module=None))
    fails(path, "'half' is the custom class Halving, which Keras does not know")


def test_a_class_of_a_module_is_imported_only_if_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "custom.keras"
    save_with_halving(path)
    edit(path, lambda config: layer_config(config, "half").update(module="halving_layers"))
    fails(path, "Halving of the module halving_layers.*--allow-unsafe")
    fails(path, "cannot be imported", allow_unsafe=True)
    (tmp_path / "halving_layers.py").write_text(
        "import keras\nclass Halving(keras.layers.Layer):\n    def call(self, inputs):\n        return inputs / 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = load(path, allow_unsafe=True)
    assert [op.type for op in model.graph.ops()] == ["Halving", "Dense"]
    assert "halving_layers" in sys.modules


@pytest.mark.parametrize("registered", [True, False])
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_the_way_out_for_a_custom_class(
    registered: bool, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--custom imports a module, and the error names it and the call in Python that does the same."""
    module, path = f"own_layers_{registered}_{suffix[1:]}".lower(), tmp_path / f"custom{suffix}"
    decorator = "@keras.saving.register_keras_serializable(package='own')\n" if registered else ""
    layer = "class Doubling(keras.layers.Layer):\n    def call(self, inputs):\n        return inputs * 2\n"
    (tmp_path / f"{module}.py").write_text(f"import keras\n{decorator}{layer}")
    model = "keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), Doubling(name='twice')])"
    code = f"import keras; from {module} import Doubling; {model}.save({str(path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    fails(
        path,
        r"custom class .*Doubling.*--custom MODULE.*bnfold\.load\(keras\.models\.load_model\(.*: Doubling}",
    )
    with keras.saving.CustomObjectScope({}):
        files.import_custom(module)
        try:
            assert [op.type for op in load(path).graph.ops()] == ["Dense", "Doubling"]
        finally:
            for name in ("Doubling", "own>Doubling"):
                keras.saving.get_custom_objects().pop(name, None)


@pytest.mark.parametrize(("text", "fault"), [("1 / 0", "ZeroDivisionError"), ("x =", "SyntaxError"), (None, "Module")])
def test_a_custom_module_that_cannot_be_imported(
    text: str | None, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"broken_{fault.lower()}"
    if text is not None:
        (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(UsageError, match=f"--custom {module} cannot be imported: {fault}"):
        files.import_custom(module)


def test_a_class_registered_in_this_process_is_known(tmp_path: Path) -> None:
    path = tmp_path / "custom.keras"
    with keras.saving.custom_object_scope({"Halving": Halving}):
        save_with_halving(path)
        edit(path, lambda config: layer_config(config, "half").update(module=None, registered_name="Halving"))
        assert [op.type for op in load(path).graph.ops()] == ["Halving", "Dense"]


def test_a_subclassed_model_is_named(tmp_path: Path) -> None:
    class Written(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

    model = Written()
    model(np.zeros((1, 4), np.float32))
    path = tmp_path / "written.keras"
    model.save(path)
    fails(path, "subclassed model without a graph of layers, Written")


# -- the process -------------------------------------------------------------------------------------------------


def test_loading_says_nothing_on_stdout_or_stderr() -> None:
    code = (
        "from bnfold.formats.keras import load\n"
        "import sys\n"
        "assert not {'keras', 'tensorflow', 'h5py'} & set(sys.modules)\n"
        f"model = load({str(FOLDER / 'transfer.keras')!r})\n"
        "assert model.conversion_difference() < 1e-5\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("missing", ["h5py", "keras", "tensorflow"])
def test_without_the_extra_one_sentence_says_how_to_install_it(
    missing: str, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = backend.importlib.util.find_spec
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    monkeypatch.delitem(sys.modules, missing)
    with pytest.raises(MissingExtraError, match=r'pip install "\.\[keras\]" in a clone of bnfold'):
        load(archive)


def test_without_tf2onnx_only_conversion_fails(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(archive)
    for name in [name for name in sys.modules if name.split(".")[0] == "tf2onnx"]:
        monkeypatch.delitem(sys.modules, name)
    found = backend.importlib.util.find_spec
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else found(name))
    with pytest.raises(MissingExtraError, match="tf2onnx"):
        model.as_onnx(tmp_path)
