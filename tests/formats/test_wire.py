"""The wire format walker against protobuf itself."""

from __future__ import annotations

import random
import re
import warnings

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_models import backend_files, conv_bn, model, value

from bnfold.formats import load
from bnfold.formats.onnx import wire
from bnfold.formats.onnx.wire import Pieces, Skeleton, WireError, joined, length_field, splice, split, varint


def restore(skeleton: Skeleton, data: bytes) -> bytes:
    """The model again, with each payload back in its field, after protobuf has had the skeleton."""

    def emit(header: bytes, mark: int) -> Pieces:
        field, offset, length = skeleton.ranges[mark]
        return [header, length_field(field, length), data[offset : offset + length]]

    parsed = ModelProto.FromString(skeleton.data).SerializeToString()
    return joined(splice(parsed, skeleton.nonce, emit))


def restored(proto: ModelProto | bytes) -> tuple[ModelProto, Skeleton]:
    data = proto if isinstance(proto, bytes) else proto.SerializeToString()
    skeleton = split(data, len(data))
    return ModelProto.FromString(restore(skeleton, data)), skeleton


@pytest.fixture(params=["as shipped", "everything marked"])
def thresholds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With thresholds of zero every tensor with data in one piece is taken out of the skeleton."""
    if request.param == "everything marked":
        monkeypatch.setattr(wire, "INLINE_BYTES", 0)
        monkeypatch.setattr(wire, "INLINE_INTEGER_BYTES", 0)


@pytest.mark.usefixtures("thresholds")
@pytest.mark.parametrize("file", backend_files(), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_equals_onnx_load_on_the_backend_files(file):
    expected = onnx.load(file)
    assert load(file).to_proto() == expected


@pytest.mark.slow
@pytest.mark.usefixtures("thresholds")
def test_equals_the_proto_on_the_backend_node_cases():
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        protos = [case.model for case in collect_testcases(None) if case.model is not None]
    assert len(protos) > 1000
    for proto in protos:
        assert restored(proto)[0] == proto, proto.graph.name


def test_only_the_header_of_a_large_tensor_is_in_the_skeleton():
    proto = conv_bn(channels=64)
    again, skeleton = restored(proto)
    weight = numpy_helper.to_array(proto.graph.initializer[0])
    assert again == proto
    assert len(skeleton.ranges) == 1
    assert skeleton.ranges[0].length == weight.nbytes
    assert len(skeleton.data) < proto.ByteSize() - weight.nbytes + 200
    assert weight.tobytes()[:64] not in skeleton.data


def large(kind: int, field: str, count: int = 2000) -> TensorProto:
    tensor = TensorProto(name="t", data_type=kind, dims=[count])
    if field == "raw_data":
        tensor.raw_data = np.random.default_rng(0).bytes(count * helper.tensor_dtype_to_np_dtype(kind).itemsize)
    else:
        getattr(tensor, field).extend(range(count))
    return tensor


@pytest.mark.parametrize(
    ("kind", "field", "marked"),
    [
        (TensorProto.FLOAT, "raw_data", True),
        (TensorProto.FLOAT, "float_data", True),
        (TensorProto.DOUBLE, "double_data", True),
        (TensorProto.FLOAT16, "raw_data", True),
        (TensorProto.BFLOAT16, "raw_data", True),
        (TensorProto.FLOAT16, "int32_data", False),
        (TensorProto.INT64, "int64_data", False),
        (TensorProto.UINT64, "uint64_data", False),
        (TensorProto.INT64, "raw_data", False),  # shape inference reads integers, up to 64 KB of them
        (TensorProto.INT8, "raw_data", True),
        (TensorProto.INT32, "float_data", False),  # not where such values belong: for the checker to refuse
    ],
)
def test_what_is_taken_out(kind, field, marked):
    proto = conv_bn()
    proto.graph.initializer.append(large(kind, field))
    again, skeleton = restored(proto)
    assert again == proto
    assert len(skeleton.ranges) == 1 + marked


def test_large_integers_are_taken_out_too():
    proto = conv_bn()
    proto.graph.initializer.append(large(TensorProto.INT64, "raw_data", 10_000))
    again, skeleton = restored(proto)
    assert again == proto
    assert len(skeleton.ranges) == 2


def test_tensors_in_nodes_subgraphs_and_functions_are_taken_out():
    constant = helper.make_node("Constant", [], ["c"], value=large(TensorProto.FLOAT, "raw_data"))
    body = helper.make_graph([constant], "body", [], [value("c", [2000])], [large(TensorProto.FLOAT, "raw_data")])
    branch = helper.make_node("If", ["flag"], ["y"], then_branch=body, else_branch=body)
    function = helper.make_function("local", "f", [], ["c"], [constant], [helper.make_opsetid("", 17)])
    proto = model([constant, branch], [value("flag", [], TensorProto.BOOL)], [value("y", [2000])])
    proto.functions.append(function)
    proto.training_info.add().algorithm.initializer.append(large(TensorProto.FLOAT, "raw_data"))
    again, skeleton = restored(proto)
    assert again == proto
    assert len(skeleton.ranges) == 1 + 2 * 2 + 1 + 1


def in_a_model(tensor: bytes) -> bytes:
    """A model of one initializer, given as the bytes of its TensorProto."""
    graph = wire.bytes_field(2, b"graph") + wire.bytes_field(5, tensor)
    return varint(8) + varint(8) + wire.bytes_field(7, graph)


FLOATS = np.arange(3000, dtype=np.float32)
RAW = wire.bytes_field(9, FLOATS.tobytes())
UNUSUAL = {
    "two chunks": [wire.bytes_field(4, FLOATS[:2000].tobytes()), wire.bytes_field(4, FLOATS[2000:].tobytes())],
    "not packed": [varint(4 << 3 | 5) + item.tobytes() for item in FLOATS],
    "raw_data twice": [wire.bytes_field(9, b"1234"), RAW],
    "raw and typed": [RAW, wire.bytes_field(4, FLOATS.tobytes())],
    "external data as well": [RAW, wire.entry_field("location", "x")],
    "a group": [RAW, varint(99 << 3 | 3), varint(99 << 3 | 4)],
}


@pytest.mark.parametrize("fields", UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_unusual_is_left_to_protobuf(fields):
    header = [varint(8) + varint(3000), varint(16) + varint(1)]
    data = in_a_model(b"".join(header + fields))
    skeleton = split(data, len(data))
    assert skeleton.ranges == []
    assert skeleton.data == data
    ModelProto.FromString(data)


def test_an_explicit_default_location_is_kept():
    proto = conv_bn()
    proto.graph.initializer[0].data_location = TensorProto.DEFAULT
    again, skeleton = restored(proto)
    assert again == proto
    assert len(skeleton.ranges) == 1


LARGE, OTHER, SMALL = RAW, wire.bytes_field(9, FLOATS[::-1].tobytes()), wire.bytes_field(9, b"abcd")


@pytest.mark.parametrize("parts", [(LARGE, OTHER), (LARGE, SMALL), (SMALL, LARGE), (SMALL, LARGE, SMALL)])
def test_a_tensor_given_twice_is_merged_by_protobuf(parts):
    header = varint(8) + varint(3000) + varint(16) + varint(1)
    attribute = wire.bytes_field(1, b"value") + b"".join(wire.bytes_field(5, header + part) for part in parts)
    node = wire.bytes_field(2, b"y") + wire.bytes_field(4, b"Constant") + wire.bytes_field(5, attribute)
    data = wire.bytes_field(7, wire.bytes_field(1, node))
    assert restored(data)[0] == ModelProto.FromString(data)


def test_a_graph_given_twice_is_merged_by_protobuf():
    data = conv_bn().SerializeToString()
    other = ModelProto(graph=helper.make_graph([], "other", [], [], [large(TensorProto.FLOAT, "raw_data")]))
    data += other.SerializeToString()
    again, skeleton = restored(data)
    assert len(skeleton.ranges) == 2
    assert again == ModelProto.FromString(data)


def test_a_file_cannot_forge_a_mark():
    proto = conv_bn()
    data = proto.SerializeToString()
    nonce = split(data, len(data)).nonce
    proto.graph.initializer[1].external_data.add(key=nonce, value="0")
    again, skeleton = restored(proto)
    assert skeleton.nonce != nonce
    assert again == proto


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 1 << 32, (1 << 64) - 1])
def test_varints(number):
    data = varint(number)
    assert wire.read_varint(data, 0, len(data)) == (number, len(data))


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\xff" * 9, b"\xff" * 10 + b"\x01", b"\xff" * 9 + b"\x02", b"\x80" * 50]
)
def test_bad_varints(data):
    with pytest.raises(WireError):
        wire.read_varint(data, 0, len(data))


def nested(depth: int) -> bytes:
    """If inside If inside If…: three messages a level."""
    graph = wire.bytes_field(2, b"x" * 2000)
    for _ in range(depth):
        attribute = wire.bytes_field(1, b"then_branch") + wire.bytes_field(6, graph)
        graph = wire.bytes_field(1, wire.bytes_field(5, attribute))
    return wire.bytes_field(7, graph)


def test_nesting_is_bounded():
    assert split(nested(30), len(nested(30))).data == nested(30)
    with pytest.raises(WireError, match="nested more than 100 deep"):
        split(nested(200), len(nested(200)))


def test_lengths_are_held_against_the_enclosing_message():
    inner = length_field(5, 5000) + b"x" * 4000
    data = wire.bytes_field(7, inner) + b"x" * 5000  # the initializer would end beyond its graph
    with pytest.raises(WireError, match=re.escape("needs 5000 bytes where 4000 are left")):
        split(data, len(data))


def test_damage_is_found_by_the_walker_or_by_protobuf():
    data = bytearray(conv_bn(channels=32).SerializeToString())
    rng = random.Random(7)
    for _ in range(3000):
        damaged = bytearray(data[: rng.randrange(len(data))] if rng.random() < 0.3 else data)
        for _ in range(rng.randrange(4)):
            if damaged:
                damaged[min(int(rng.expovariate(1 / 200)), len(damaged) - 1)] = rng.randrange(256)
        expected = read_or_none(ModelProto.FromString, bytes(damaged))
        assert read_or_none(lambda data: restored(data)[0], bytes(damaged)) == expected


def read_or_none(read, data):
    try:
        return read(data)
    except (DecodeError, WireError):
        return None
