"""What load() refuses, in which words, and what it takes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_models import conv_bn, graph, model, run, value

import bnfold
from bnfold.errors import ModelFileError, UsageError
from bnfold.formats import load

INPUT, OUTPUT = value("x", ["N", 4]), value("y", ["N", 4])
RELU = helper.make_node("Relu", ["x"], ["y"], name="act")


def refused(source: object) -> str:
    """The message, which has to be one sentence on one line."""
    with pytest.raises(ModelFileError) as caught:
        load(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty"),
        (b"hello, this is not a model\n", "is a text file, not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"PK\x03\x04rest", "is a zip archive, not an ONNX model"),
        (b"\x89HDF\r\n\x1a\nrest", "is an HDF5 file, not an ONNX model"),
        (b"\x1f\x8b\x08rest", "is compressed by gzip"),
        (b"\x00" * 64, "is damaged, or not an ONNX model: byte 0 is not the start of a field"),
        (b"\x08\x08", "is damaged, or not an ONNX model: it holds no graph"),
        (os.urandom(0) + bytes(range(255, 128, -1)), "is damaged, or not an ONNX model"),
    ],
)
def test_files_that_are_no_models(tmp_path, content, fault):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert refused(path).startswith(f"{path} {fault}")


def test_a_missing_file(tmp_path):
    assert refused(tmp_path / "none.onnx") == f"{tmp_path / 'none.onnx'} cannot be read: no such file or directory"


def test_a_directory(tmp_path):
    assert refused(tmp_path).startswith(f"{tmp_path} is a directory, and not a SavedModel: it has no saved_model.pb; ")
    (tmp_path / "model.onnx").mkdir()
    assert "is a directory" in refused(tmp_path / "model.onnx")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.onnx")
    assert refused(tmp_path / "model.onnx") == f"{tmp_path / 'model.onnx'} is not a regular file"


def test_a_name_that_no_file_can_have():
    assert "cannot be read" in refused("model\0.onnx")
    assert "cannot be read" in refused("m" * 5000)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(conv_bn(), path)
    path.chmod(0)
    assert refused(path) == f"{path} cannot be read: permission denied"


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(tmp_path, part):
    data = conv_bn().SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(data[: int(len(data) * part)])
    assert refused(path).startswith(f"{path} is damaged")


def test_other_objects_are_a_usage_error():
    with pytest.raises(UsageError, match="not list"):
        load([1, 2])


@pytest.mark.parametrize("kind", ["path", "string", "bytes", "proto", "bytearray"])
def test_every_way_in(tmp_path, kind):
    proto = conv_bn()
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    data = path.read_bytes()
    source = {"path": path, "string": str(path), "bytes": data, "proto": proto, "bytearray": bytearray(data)}[kind]
    loaded = load(source)
    assert loaded.to_proto() == proto
    assert loaded.path == (path if kind in ("path", "string") else None)
    assert loaded.format == "onnx"


def test_the_suffix_is_not_what_makes_a_model(tmp_path):
    path = tmp_path / "weights.bin"
    onnx.save(conv_bn(), path)
    assert len(load(path).graph) == 3


def with_tensor(**changes: object) -> ModelProto:
    proto = model([helper.make_node("Add", ["x", "w"], ["y"])], [INPUT], [OUTPUT], {"w": np.zeros(4, np.float32)})
    tensor = proto.graph.initializer[0]
    for field, content in changes.items():
        if field == "dims":
            del tensor.dims[:]
            tensor.dims.extend(content)
        else:
            setattr(tensor, field, content)
    return proto


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"dims": [5]}, "initializer 'w' has 16 bytes of data where its shape 5 takes 20"),
        ({"dims": [2, 1]}, "has 16 bytes of data where its shape 2×1 takes 8"),
        ({"dims": []}, "has 16 bytes of data where its shape of a scalar takes 4"),
        ({"dims": [-4]}, "has the impossible shape [-4]"),
        ({"dims": [-2, -2]}, "has the impossible shape [-2, -2]"),
        ({"dims": [1 << 60]}, "has the impossible shape"),
        ({"dims": [1 << 40, 1 << 40]}, "has 16 bytes of data where its shape"),
        ({"dims": [0, 1 << 60], "raw_data": b""}, "has the impossible shape"),
        ({"dims": [0, 1 << 40, 1 << 40], "raw_data": b""}, "has the impossible shape"),
        ({"dims": [2] * 20000}, "has 20000 dimensions, and no array has more than 32"),
        ({"data_type": 99}, "has the unknown element type 99"),
        ({"data_type": 0}, "has the unknown element type 0"),
        ({"data_type": TensorProto.STRING}, "stores strings as raw bytes"),
        ({"data_type": TensorProto.INT4}, "has 16 bytes of data where its shape 4 takes 2"),
    ],
)
def test_tensors_that_contradict_themselves(changes, fault):
    message = refused(with_tensor(**changes))
    assert message.startswith("the ModelProto is damaged: ")
    assert fault in message


def test_a_large_tensor_that_contradicts_itself():
    proto = conv_bn(channels=64)
    proto.graph.initializer[0].dims[0] = 63
    assert "initializer 'weight' has 6,912 bytes of data where its shape 63×3×3×3 takes 6,804" in refused(proto)


def test_a_constant_node_that_contradicts_itself():
    tensor = numpy_helper.from_array(np.zeros(4, np.float32))
    tensor.dims[0] = 3
    proto = model([helper.make_node("Constant", [], ["y"], value=tensor, name="c")], [], [value("y", [3])])
    assert "attribute 'value' of node 'c' has 16 bytes of data where its shape 3 takes 12" in refused(proto)


def test_typed_data_of_the_wrong_length():
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])
    del tensor.float_data[3:]
    proto = model([helper.make_node("Add", ["x", "w"], ["y"])], [INPUT], [OUTPUT])
    proto.graph.initializer.append(tensor)
    assert "has 3 values of data where its shape 4 takes 4" in refused(proto)


def node(kind: str, inputs: list[str], outputs: list[str], name: str = "") -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, name=name)


@pytest.mark.parametrize(
    ("nodes", "fault"),
    [
        ([node("Relu", ["z"], ["y"], "r")], "node 'r' (Relu) reads 'z', which nothing produces"),
        (
            [node("Add", ["x", "b"], ["a"], "p"), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])],
            "node 'p' (Add) reads what its own output leads to: a cycle",
        ),
        ([node("Add", ["x", "y"], ["y"], "p")], "node 'p' (Add) reads what its own output leads to"),
        ([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"], "n")], "the name 'y' to two tensors"),
        ([node("Relu", ["x"], ["x"], "n")], "the name 'x' to two tensors"),
        ([node("Relu", ["x"], ["z"])], "the output 'y', which nothing in it produces"),
        (
            [node("Rilu", ["x"], ["y"])],
            "fails onnx.checker: No Op registered for Rilu with domain_version of 17 (node '', Rilu)",
        ),
        (
            [helper.make_node("Relu", ["x"], ["y"], alpha=1.0)],
            "fails onnx.checker: Unrecognized attribute: alpha for operator Relu (node '', Relu)",
        ),
    ],
)
def test_graphs_that_do_not_hold_together(nodes, fault):
    assert fault in refused(model(nodes, [INPUT], [OUTPUT]))


def test_nodes_in_any_order_are_sorted_and_that_is_said(tmp_path):
    proto = conv_bn()
    body = graph([node("Relu", ["result"], ["t"]), node("Neg", ["t"], ["z"])], [], [value("z", ["N", 16, 8, 8])])
    proto.graph.input.append(value("flag", [], TensorProto.BOOL))
    proto.graph.node.append(helper.make_node("If", ["flag"], ["end"], then_branch=body, else_branch=body))
    proto.graph.output.append(value("end", ["N", 16, 8, 8]))
    feed = {"image": np.random.default_rng(0).standard_normal((1, 3, 8, 8), dtype=np.float32), "flag": np.array(True)}
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(proto)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(reversed(proto.graph.node))
    inner = shuffled.graph.node[0].attribute[0].g
    inner.node.extend([inner.node.pop(0)])
    path = tmp_path / "shuffled.onnx"
    path.write_bytes(shuffled.SerializeToString())
    loaded = load(path)
    assert [op.type for op in loaded.graph.ops()] == ["Conv", "BatchNormalization", "Relu", "If"]
    onnx.checker.check_model(loaded.to_proto(), full_check=True)
    for mine, theirs in zip(run(loaded.to_proto(), feed), run(proto, feed), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    result = bnfold.fold(loaded)
    assert "the nodes were not in topological order; they are now" in result.plan.notes
    assert not load(proto).graph.notes
    for mine, theirs in zip(run(result.model.to_proto(), feed), run(proto, feed), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def test_what_a_file_says_does_not_reach_the_terminal_as_it_is():
    message = refused(model([node("Re\x1b[31m\nlu", ["z"], ["y"], "\x1b]0;title")], [INPUT], [OUTPUT]))
    assert message.isprintable()
    message = refused(model([node("Re\x1b[31mlu", ["x"], ["y"])], [INPUT], [OUTPUT]))
    assert "fails onnx.checker: No Op registered for Re?[31mlu" in message
    assert message.isprintable()


def test_two_initializers_of_one_name():
    proto = with_tensor()
    proto.graph.initializer.append(proto.graph.initializer[0])
    assert "has two initializers named 'w'" in refused(proto)


def test_an_opset_that_is_newer_than_known():
    newer = onnx.defs.onnx_opset_version() + 1
    assert f"uses ONNX opset {newer}" in refused(model([RELU], [INPUT], [OUTPUT], opset=newer))
    load(model([RELU], [INPUT], [OUTPUT], opset=newer - 1, ir_version=onnx.IR_VERSION))


def test_an_ir_version_that_is_newer_than_known():
    message = refused(model([RELU], [INPUT], [OUTPUT], ir_version=onnx.IR_VERSION + 1))
    assert "fails onnx.checker: Your model ir_version" in message


def test_custom_domains_are_taken():
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 3)]
    custom = helper.make_node("Anything", ["x"], ["y"], domain="acme", strength=3)
    op = load(model([custom], [INPUT], [OUTPUT], opset_imports=opsets)).graph.ops()[0]
    assert (op.type, op.domain, dict(op.attributes)) == ("Anything", "acme", {"strength": 3})


def test_a_model_of_old_onnx_without_opset_imports_names_its_version():
    proto = model([RELU], [INPUT], [OUTPUT], ir_version=2)
    del proto.opset_import[:]
    assert load(proto).graph.opsets == {"": 1}


def test_names_that_are_not_utf8():
    data = conv_bn().SerializeToString().replace(b"conv_out", b"conv\xff\xfeut")
    assert refused(data) == r"the model in memory is damaged: the name b'conv\xff\xfeut' in it is not UTF-8"


def deep(levels: int) -> ModelProto:
    body = helper.make_graph([node("Identity", ["x"], ["y0"])], "g", [], [OUTPUT])
    body.output[0].name = "y0"
    for level in range(1, levels):
        branch = helper.make_node("If", ["flag"], [f"y{level}"], then_branch=body, else_branch=body)
        del branch.attribute[1:]  # one branch: two would double with every level
        body = helper.make_graph([branch], "g", [], [OUTPUT])
        body.output[0].name = f"y{level}"
    return model(body.node, [INPUT, value("flag", [], TensorProto.BOOL)], body.output)


def test_deep_nesting_is_refused_and_never_a_recursion_error():
    for levels in (20, 30, 33, 34, 40):
        try:
            proto = deep(levels)
            data = proto.SerializeToString()
        except (DecodeError, EncodeError):
            continue  # protobuf itself gives up
        refused(data)  # an If needs both branches, if it comes to that


def test_a_long_chain_of_nodes_is_no_problem():
    nodes = [node("Relu", [f"t{i}" if i else "x"], [f"t{i + 1}"]) for i in range(20_000)]
    loaded = load(model(nodes, [INPUT], [value("t20000", ["N", 4])]))
    assert len(loaded.graph) == 20_000
    assert loaded.graph.tensor("t19999").shape == ("N", 4)


def test_damaged_files_are_refused_or_read_but_never_more():
    """No other exception, whatever is wrong: what is read can be written, and reads the same again."""
    original = conv_bn(channels=32).SerializeToString()
    rng = random.Random(11)
    taken = 0
    for _ in range(1500):
        data = bytearray(original)
        for _ in range(rng.randrange(1, 4)):
            data[rng.choice((rng.randrange(len(data)), min(int(rng.expovariate(1 / 150)), len(data) - 1)))] = (
                rng.randrange(256)
            )
        try:
            loaded = load(bytes(data))
        except ModelFileError:
            continue
        taken += 1
        loaded.graph.tensor("conv_out")
        for param in loaded.graph.params.values():
            param.array()
        assert load(loaded.to_proto()).to_proto() == loaded.to_proto()
    assert 100 < taken < 1500


LIMITED = """
import resource, sys
sys.path.insert(0, {root!r})
import bnfold.formats.onnx
from bnfold.errors import ModelFileError
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
try:
    bnfold.formats.onnx.load(sys.argv[1])
except ModelFileError as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_absurd_sizes_cost_no_memory(tmp_path):
    proto = conv_bn()
    proto.graph.initializer[1].dims[0] = 1 << 40
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    code = LIMITED.format(root=str(Path(__file__).parents[2]))
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert "initializer 'gamma' has 64 bytes of data" in done.stdout, done.stderr
