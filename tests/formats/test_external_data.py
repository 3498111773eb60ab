"""External data: located, checked, never led outside the model's directory, and written beside the model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_models import conv_bn, graph, model, run, value

from bnfold.errors import ModelFileError, OutputError
from bnfold.formats import load
from bnfold.formats.onnx import external, writer

IMAGE = np.random.default_rng(0).standard_normal((1, 3, 8, 8), dtype=np.float32)


def save_external(proto: ModelProto, path: Path, **options: object) -> None:
    copy = ModelProto()
    copy.CopyFrom(proto)
    onnx.save_model(copy, path, save_as_external_data=True, size_threshold=0, **options)


def with_entries(path: Path, **entries: str | None) -> Path:
    """Write a model whose weight says this about where its data lies."""
    proto = conv_bn(channels=16)
    weight = proto.graph.initializer[0]
    (path.parent / "weights.bin").write_bytes(b"\0" * 64 + weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    fields = {"location": "weights.bin", "offset": "64", "length": str(16 * 27 * 4), **entries}
    for key, text in fields.items():
        if text is not None:
            weight.external_data.add(key=key, value=text)
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize("one_file", [True, False])
def test_equals_onnx_load(tmp_path, one_file):
    proto = conv_bn(channels=64)
    path = tmp_path / "model.onnx"
    save_external(proto, path, all_tensors_to_one_file=one_file)
    loaded = load(path)
    for param in loaded.graph.params.values():
        tensor = next(t for t in proto.graph.initializer if t.name == param.name)
        np.testing.assert_array_equal(param.array(), numpy_helper.to_array(tensor))
    assert loaded.to_proto() == proto
    np.testing.assert_array_equal(run(loaded.to_proto(), {"image": IMAGE})[0], run(path, {"image": IMAGE})[0])


def test_more_data_files_than_are_kept_open(tmp_path, monkeypatch):
    monkeypatch.setattr(external, "MAX_OPEN", 2)
    path = tmp_path / "model.onnx"
    proto = conv_bn(channels=64)
    save_external(proto, path, all_tensors_to_one_file=False)
    loaded = load(path)
    assert loaded.to_proto() == proto
    (tmp_path / "variance").write_bytes(bytes(64 * 4))
    with pytest.raises(ModelFileError, match="variance has changed since the model was loaded"):
        loaded.to_proto()
    (tmp_path / "variance").unlink()
    with pytest.raises(ModelFileError, match="variance cannot be read any more"):
        loaded.to_proto()


def test_offset_and_length_may_be_left_out(tmp_path):
    proto = load(with_entries(tmp_path / "model.onnx")).to_proto()
    assert load(with_entries(tmp_path / "model.onnx", length=None)).to_proto() == proto
    shifted = load(with_entries(tmp_path / "model.onnx", offset=None)).graph.params["weight"].array()
    np.testing.assert_array_equal(shifted.ravel()[:16], 0)


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        ({"location": "/etc/passwd"}, "outside of the model's directory"),
        ({"location": "../weights.bin"}, "outside of the model's directory"),
        ({"location": "a/../../weights.bin"}, "outside of the model's directory"),
        ({"location": "a/../weights.bin"}, "outside of the model's directory"),
        ({"location": "..\\weights.bin"}, "outside of the model's directory"),
        ({"location": "C:\\weights.bin"}, "outside of the model's directory"),
        ({"location": "\\\\host\\weights.bin"}, "outside of the model's directory"),
        ({"location": ""}, "without a location"),
        ({"location": "a\0b"}, "without a location"),
        ({"location": "none.bin"}, "which cannot be read: no such file or directory"),
        ({"location": "."}, "not a regular file"),
        ({"location": "w" * 300}, "which cannot be read: file name too long"),
        ({"offset": "65"}, "ends at byte 1,793 of 'weights.bin', which has only 1,792"),
        ({"offset": "9" * 19}, "which has only 1,792"),
        ({"offset": "9" * 30}, "which is not a number"),
        ({"offset": "-64"}, "which is not a number"),
        ({"offset": "0x40"}, "which is not a number"),
        ({"length": "1727"}, "has 1,727 bytes of external data where its shape needs 1,728"),
        ({"length": "99999"}, "has 99,999 bytes of external data where its shape needs 1,728"),
    ],
)
def test_what_is_refused(tmp_path, entries, fault):
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(10_000))
    path = with_entries(folder / "model.onnx", **entries)
    with pytest.raises(ModelFileError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path} is unsafe or damaged: tensor 'weight' ")
    assert fault in str(caught.value)


def test_external_data_without_a_place(tmp_path):
    with pytest.raises(ModelFileError, match="initializer 'weight' has 0 values of data where its shape"):
        load(with_entries(tmp_path / "model.onnx", location=None))


def test_links_that_leave_the_directory_are_refused_and_others_are_not(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    path = with_entries(folder / "model.onnx", location="link.bin")
    expected = load(with_entries(folder / "plain.onnx")).to_proto()
    (folder / "link.bin").symlink_to(folder / "weights.bin")
    assert load(path).to_proto() == expected
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    (folder / "link.bin").unlink()
    (folder / "link.bin").symlink_to("../weights.bin")
    with pytest.raises(ModelFileError, match="a link that leaves the model's directory"):
        load(path)
    (folder / "sub").symlink_to(tmp_path)
    with pytest.raises(ModelFileError, match="a link that leaves the model's directory"):
        load(with_entries(folder / "model.onnx", location="sub/weights.bin"))


@pytest.mark.parametrize("where", ["weights.bin", "deep/weights.bin"])
def test_a_link_that_is_put_in_place_after_the_check_is_not_followed(tmp_path, monkeypatch, where):
    """What was resolved is a plain file or folder; by the time it is opened, it leads outside."""
    folder, secret = tmp_path / "models", tmp_path / "secret"
    path = folder / "model.onnx"
    (folder / where).parent.mkdir(parents=True)
    secret.mkdir()
    with_entries(path, location=where)
    (secret / "weights.bin").write_bytes(bytes([7]) * 4096)
    if where != "weights.bin":
        (folder / "weights.bin").rename(folder / where)
    resolve = external._DataFiles._resolve

    def swap(self, *arguments):
        found = resolve(self, *arguments)
        first = folder / Path(where).parts[0]
        first.rename(tmp_path / "aside")
        first.symlink_to(secret if first.name == "deep" else secret / "weights.bin")
        return found

    monkeypatch.setattr(external._DataFiles, "_resolve", swap)
    with pytest.raises(ModelFileError, match=f"has its data in '{where}', which cannot be read"):
        load(path)


def test_a_folder_inside_the_directory_is_fine(tmp_path):
    path = with_entries(tmp_path / "model.onnx", location="deep/down/weights.bin")
    (tmp_path / "deep/down").mkdir(parents=True)
    (tmp_path / "weights.bin").rename(tmp_path / "deep/down/weights.bin")
    assert load(path).graph.params["weight"].array().any()


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="'pipe', which is not a regular file"):
        load(with_entries(tmp_path / "model.onnx", location="pipe"))


def test_data_inside_and_outside_is_a_contradiction(tmp_path):
    path = with_entries(tmp_path / "model.onnx")
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].raw_data = bytes(16 * 27 * 4)
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelFileError, match="has data of its own as well as external data"):
        load(path)


def test_a_model_in_memory_has_no_directory(tmp_path):
    data = with_entries(tmp_path / "model.onnx").read_bytes()
    with pytest.raises(ModelFileError, match="a model that is not loaded from a file cannot have"):
        load(data)


def test_references_that_are_not_in_use_are_kept():
    proto = conv_bn()
    proto.graph.initializer[1].external_data.add(key="location", value="../left/over")  # data_location says otherwise
    assert load(proto).to_proto() == proto


def everywhere() -> ModelProto:
    """Weights in an initializer, in a Constant node and in both places of a subgraph."""
    rng = np.random.default_rng(5)

    def weight(name):
        return numpy_helper.from_array(rng.standard_normal(2000, dtype=np.float32), name)

    then = graph(
        [
            helper.make_node("Constant", [], ["c"], value=weight("c")),
            helper.make_node("Mul", ["x", "c"], ["m"]),
            helper.make_node("Add", ["m", "inner"], ["t"]),
        ],
        [],
        [value("t", [2000])],
    )
    then.initializer.append(weight("inner"))
    nodes = [
        helper.make_node("Constant", [], ["k"], value=weight("k")),
        helper.make_node("Add", ["x", "k"], ["s"]),
        helper.make_node("Mul", ["s", "w"], ["p"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=_identity_branch()),
    ]
    proto = model(nodes, [value("x", [2000]), value("flag", [], TensorProto.BOOL)], [value("y", [2000])])
    proto.graph.initializer.append(weight("w"))
    return proto


def _identity_branch():
    return graph([helper.make_node("Identity", ["p"], ["e"])], [], [value("e", [2000])])


@pytest.mark.parametrize("flag", [True, False])
def test_written_external_data_is_read_by_onnx_and_onnxruntime(tmp_path, flag):
    proto = everywhere()
    path = tmp_path / "out.onnx"
    load(proto).save(path, external_data=True)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]
    assert path.stat().st_size < 2000
    onnx.checker.check_model(str(path), full_check=True)
    assert load(path).to_proto() == proto
    feeds = {"x": np.ones(2000, np.float32), "flag": np.array(flag)}
    np.testing.assert_array_equal(run(path, feeds)[0], run(proto, feeds)[0])
    read = onnx.load(path)
    for tensor in external.tensors(read):
        tensor.ClearField("data_location")  # onnx.load says explicitly that the data is inside
    assert read == proto


def test_typed_floats_are_written_as_raw_bytes(tmp_path):
    values = np.linspace(0, 1, 2000, dtype=np.float32)
    proto = model([helper.make_node("Identity", ["w"], ["y"])], [], [value("y", [2000])])
    proto.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [2000], values.tolist()))
    load(proto).save(tmp_path / "out.onnx", external_data=True)
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(tmp_path / "out.onnx").graph.initializer[0]), values)


def test_large_tensors_start_at_pages(tmp_path):
    proto = conv_bn(channels=16)
    for name, size in (("first", 20_000), ("odd", 777), ("second", 20_000)):
        proto.graph.initializer.append(numpy_helper.from_array(np.full(size, 3.0), name))
    load(proto).save(tmp_path / "out.onnx", external_data=True)
    saved = onnx.load(tmp_path / "out.onnx", load_external_data=False).graph.initializer
    offsets = {t.name: int(e.value) for t in saved for e in t.external_data if e.key == "offset"}
    assert set(offsets) == {"weight", "first", "odd", "second"}
    assert offsets["first"] % 4096 == offsets["second"] % 4096 == 0
    assert offsets["odd"] % 64 == offsets["weight"] % 64 == 0
    assert load(tmp_path / "out.onnx").to_proto() == proto


def test_without_large_tensors_there_is_no_data_file_to_speak_of(tmp_path):
    proto = model([helper.make_node("Relu", ["x"], ["y"])], [value("x", [4])], [value("y", [4])])
    load(proto).save(tmp_path / "out.onnx", external_data=True)
    assert [item.name for item in tmp_path.iterdir()] == ["out.onnx"]
    assert onnx.load(tmp_path / "out.onnx") == proto


def test_what_had_external_data_gets_it_again_unless_told_otherwise(tmp_path):
    proto = conv_bn(channels=64)
    path = tmp_path / "model.onnx"
    save_external(proto, path, location="weights.bin")
    loaded = load(path)
    loaded.save(tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx.data").exists()
    loaded.with_graph(loaded.graph.copy()).save(tmp_path / "changed.onnx")
    assert (tmp_path / "changed.onnx.data").exists()
    loaded.save(tmp_path / "whole.onnx", external_data=False)
    assert not (tmp_path / "whole.onnx.data").exists()
    assert load(tmp_path / "again.onnx").to_proto() == onnx.load(tmp_path / "whole.onnx") == proto


def test_what_is_too_large_for_one_file_gets_a_second(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "MAX_MESSAGE_BYTES", 5000)
    proto = conv_bn(channels=64)
    loaded = load(proto)
    loaded.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").exists()
    assert load(tmp_path / "out.onnx").to_proto() == proto
    with pytest.raises(OutputError, match=r"small\.onnx would be larger than 2 GB"):
        loaded.save(tmp_path / "small.onnx", external_data=False)
    assert not (tmp_path / "small.onnx").exists()


def test_the_old_pair_of_files_is_whole_until_the_new_one_is(tmp_path, monkeypatch):
    path = tmp_path / "out.onnx"
    first, second = conv_bn(channels=64, seed=1), conv_bn(channels=64, seed=2)
    load(first).save(path, external_data=True)
    original = os.replace

    def interrupted(source, target):
        assert load(path).to_proto() == first
        return original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        load(second).save(path, external_data=True)
    assert load(path).to_proto() == second
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out.onnx", "out.onnx.1.data"]
    load(first).save(path, external_data=True)
    assert load(path).to_proto() == first
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]
    load(second).save(path, external_data=False)
    assert [item.name for item in tmp_path.iterdir()] == ["out.onnx"]


def test_data_files_of_others_are_left_alone(tmp_path):
    (tmp_path / "out.onnx.data").write_bytes(b"someone else's")
    (tmp_path / "out.onnx").write_bytes(b"not a model")
    proto = conv_bn(channels=64)
    load(proto).save(tmp_path / "out.onnx", external_data=True)
    assert (tmp_path / "out.onnx.data").read_bytes() == b"someone else's"
    assert load(tmp_path / "out.onnx").to_proto() == proto


def test_saving_over_the_source_with_external_data(tmp_path):
    path = tmp_path / "model.onnx"
    proto = conv_bn(channels=64)
    load(proto).save(path, external_data=True)
    loaded = load(path)
    changed = loaded.graph.copy()
    changed.params["weight"] = changed.params["weight"].scaled(np.full((1, 1, 1, 1), 2.0))
    loaded.with_graph(changed).save(path)
    doubled = load(path).graph.params["weight"].array()
    np.testing.assert_array_equal(doubled, 2 * loaded.graph.params["weight"].array())
    assert loaded.to_proto() == proto


MEASURE = """
import resource, sys
sys.path.insert(0, {root!r})
import numpy as np
import bnfold.formats.onnx
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = bnfold.formats.onnx.load(sys.argv[1])
graph = model.graph.copy()
graph.params["w0"] = graph.params["w0"].scaled(np.full((1, 1), 2.0))
model.with_graph(graph).save(sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in kilobytes on Linux")
@pytest.mark.parametrize("external_data", [True, False])
def test_memory_does_not_grow_with_the_weights(tmp_path, external_data):
    params = {f"w{i}": np.ones((2000, 2000), np.float32) for i in range(8)}
    nodes = [helper.make_node("MatMul", [f"t{i}" if i else "x", f"w{i}"], [f"t{i + 1}"]) for i in range(8)]
    proto = model(nodes, [value("x", ["N", 2000])], [value("t8", ["N", 2000])], params)
    load(proto).save(tmp_path / "in.onnx", external_data=external_data)
    code = MEASURE.format(root=str(Path(__file__).parents[2]))
    arguments = [sys.executable, "-c", code, str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60_000, "128 MB of weights, of which one is read in blocks of 4 MB"
    assert (tmp_path / "out.onnx.data").exists() == external_data
