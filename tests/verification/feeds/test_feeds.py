"""Feeds: generated within what the model accepts, given by the caller, or stored with the model."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from verification_models import cnn, folded, model, verify

from bnfold.errors import UsageError
from bnfold.verification.answers import NotVerifiableError
from bnfold.verification.feeds.hints import Hint
from bnfold.verification.feeds.sizes import Assignment
from bnfold.verification.feeds.values import DISTRIBUTIONS, generate
from bnfold.verification.reference import Reference
from bnfold.verification.runtime.onnx_file import OnnxFile
from bnfold.verification.runtime.sessions import ValueSpec
from bnfold.verification.verify_options import VerifyOptions

INT, BOOL = TensorProto.INT64, TensorProto.BOOL


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs, outputs, **attributes)


def answers(proto, folder: Path, count=None, inputs=None):
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return Reference(OnnxFile(path, "the model"), VerifyOptions(inputs=inputs, feeds=count)).answers


def one(dtype, distribution, hint=None, name="x", shape=(200,)):
    spec = ValueSpec(name, "", "tensor", np.dtype(dtype), shape)
    feed = generate([spec], {name: hint or Hint()}, Assignment({name: shape}, "label"), distribution, (0, 0))
    return feed.values[name]


# -- generated -----------------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ml_dtypes.bfloat16])
def test_floats_have_their_dtype_and_distribution(dtype, distribution):
    values = one(dtype, distribution).astype(np.float64)
    assert one(dtype, distribution).dtype == dtype
    low, high = {
        "normal": (-6, 6),
        "uniform 0 to 1": (0, 1),
        "uniform -1 to 0": (-1, 0),
        "zeros": (0, 0),
        "uniform 0 to 255": (0, 255),
        "normal × 10": (-60, 60),
        "ones": (1, 1),
        "normal × 0.001": (-0.006, 0.006),
    }[distribution]
    assert low <= values.min() <= values.max() <= high


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64"])
def test_indices_keep_below_their_bound(dtype, distribution):
    values = one(dtype, distribution, Hint("index", 3))
    assert values.dtype == dtype
    assert values.min() >= 0
    assert values.max() < 3


def test_random_indices_reach_every_row():
    assert set(one("int64", "normal", Hint("index", 5))) == set(range(5))
    assert one("int64", "ones", Hint("index", 1)).max() == 0


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_controls_are_ones_and_masks_hide_not_everything(distribution):
    assert set(one("int64", distribution, Hint("control"))) == {1}
    mask = one("int64", distribution, name="attention_mask", shape=(20, 8))
    assert set(np.unique(mask)) <= {0, 1}
    assert mask.any(axis=1).all()


def test_bytes_and_booleans_take_all_their_values():
    assert {0, 255} <= set(one("uint8", "normal", shape=(5000,)))
    assert {-128, 127} <= set(one("int8", "normal", shape=(5000,)))
    assert set(one("bool", "normal")) == {False, True}
    assert set(one("bool", "zeros")) == {False}
    assert set(one("bool", "ones")) == {True}


def test_strings_are_words():
    values = one(object, "normal")
    assert values.dtype == object
    assert all(isinstance(value, str) for value in values)


def test_distributions_and_sizes_vary_from_feed_to_feed(tmp_path):
    found = answers(cnn(), tmp_path)
    assert len(found.feeds) == len(DISTRIBUTIONS)
    assert {feed.description.partition(",")[0] for feed in found.feeds} == set(DISTRIBUTIONS)
    assert {feed.values["x"].shape[0] for feed in found.feeds} == {1, 2, 3}
    assert len({feed.description for feed in found.feeds}) == len(found.feeds)
    assert not found.failed


def test_a_dear_model_gets_few_feeds(tmp_path, monkeypatch):
    monkeypatch.setattr("bnfold.verification.reference._BUDGET", 0.0)
    assert len(answers(cnn(), tmp_path).feeds) == 3
    monkeypatch.setattr("bnfold.verification.reference._BUDGET", 10.0)
    monkeypatch.setattr("bnfold.verification.reference._KEPT_BYTES", 10)
    assert len(answers(cnn(), tmp_path).feeds) == 3


def test_a_model_without_inputs_is_run_once(tmp_path):
    proto = model([node("Add", ["a", "a"], ["y"])], {}, ["y"], {"a": np.ones(2, np.float32)})
    assert [feed.description for feed in answers(proto, tmp_path).feeds] == ["no inputs"]


def test_sizes_the_model_bakes_in_are_found(tmp_path):
    """Flatten and Gemm allow one image size; the batch is free."""
    proto = model(
        [
            node("MaxPool", ["x"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Flatten", ["m"], ["f"]),
            node("Gemm", ["f", "w"], ["y"]),
        ],
        {"x": ["N", 1, "H", "W"]},
        ["y"],
        {"w": np.ones((14 * 14, 2), np.float32)},
    )
    found = answers(proto, tmp_path)
    assert {feed.values["x"].shape[1:] for feed in found.feeds} == {(1, 28, 28)}
    assert {feed.values["x"].shape[0] for feed in found.feeds} == {1, 2, 3}
    assert any("H=64" in description for description, _ in found.failed)
    assert all(error for _, error in found.failed)


def test_a_batch_that_is_baked_in_is_found(tmp_path):
    proto = model([node("Reshape", ["x", "s"], ["y"])], {"x": ["N", 6]}, ["y"], {"s": np.array([4, 6])})
    found = answers(proto, tmp_path)
    assert {feed.values["x"].shape for feed in found.feeds} == {(4, 6)}
    assert len(found.feeds) == len(DISTRIBUTIONS)


def test_a_rank_that_is_not_declared_is_found(tmp_path):
    proto = model([node("Transpose", ["x"], ["y"], perm=[0, 2, 1])], {"x": None}, ["y"])
    found = answers(proto, tmp_path)
    assert {feed.values["x"].ndim for feed in found.feeds} == {3}
    assert len(found.failed) < 5


def test_indices_with_one_size_for_all_symbols_reach_the_model(tmp_path):
    proto = model(
        [node("Gather", ["w", "ids"], ["e"]), node("Mul", ["e", "m"], ["y"])],
        {"ids": ["N", "L"], "m": ["N", "L", 1]},
        ["y"],
        {"w": np.ones((11, 3), np.float32)},
        types={"ids": INT},
    )
    found = answers(proto, tmp_path)
    assert not found.failed
    assert max(feed.values["ids"].max() for feed in found.feeds) == 10
    assert {feed.values["ids"].shape[1] for feed in found.feeds} == {8, 12}


@pytest.mark.parametrize(
    ("proto_type", "kind"),
    [
        (helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None)), "ConcatFromSequence"),
        (helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [2])), "OptionalGetElement"),
    ],
)
def test_sequences_and_optionals_are_fed(tmp_path, proto_type, kind):
    proto = model([node(kind, ["x"], ["y"], **({"axis": 0} if "Seq" in kind else {}))], {}, ["y"], opset=18)
    proto.graph.input.append(helper.make_value_info("x", proto_type))
    assert len(answers(proto, tmp_path).feeds) == len(DISTRIBUTIONS)


def test_types_numpy_does_not_have_are_refused(tmp_path):
    proto = model(
        [node("DequantizeLinear", ["x", "s"], ["y"])],
        {"x": ["N"]},
        ["y"],
        {"s": np.float32(0.1)},
        types={"x": TensorProto.INT4},
        opset=21,
    )
    with pytest.raises(NotVerifiableError, match=r"input 'x' of type tensor\(int4\)"):
        answers(proto, tmp_path)


# -- the caller's own ----------------------------------------------------------------------------

IMAGE = np.random.default_rng(0).random((2, 3, 8, 8)).astype(np.float32)


def test_own_inputs_replace_generated_ones(tmp_path):
    np.save(tmp_path / "x.npy", IMAGE)
    np.savez(tmp_path / "x.npz", x=IMAGE)
    for given in ({"x": IMAGE}, IMAGE, tmp_path / "x.npy", str(tmp_path / "x.npz")):
        check = verify(cnn(), folded(cnn()), inputs=given)
        assert check.equivalent
        assert check.feeds.count == 1
    both = verify(cnn(), cnn(), inputs=[tmp_path / "x.npy", {"x": IMAGE}, {"x": IMAGE}])
    assert both.feeds.descriptions == (str(tmp_path / "x.npy"), "the given inputs", "the given inputs (2)")


def test_own_inputs_can_be_added_to_generated_ones():
    assert verify(cnn(), cnn(), inputs={"x": IMAGE}, feeds=3).feeds.count == 4


def test_float64_values_are_taken_for_float32():
    assert verify(cnn(), cnn(), inputs={"x": IMAGE.astype(np.float64)}).equivalent


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"image": IMAGE}, "no input 'image'; it has x"),
        ({}, "no values for the model's input 'x'"),
        ({"x": IMAGE[0]}, "the model wants 4 dimensions"),
        ({"x": np.full(IMAGE.shape, "a")}, "the model wants float32"),
    ],
)
def test_own_inputs_that_do_not_fit_are_errors(given, words):
    with pytest.raises(UsageError, match=words):
        verify(cnn(), cnn(), inputs=given)


def test_files_that_are_not_arrays_are_errors(tmp_path):
    (tmp_path / "text.npz").write_text("no")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.savez(tmp_path / "short.npz", x=IMAGE)
    (tmp_path / "short.npz").write_bytes((tmp_path / "short.npz").read_bytes()[:-50])
    with pytest.raises(UsageError, match="neither values by name"):
        verify(cnn(), cnn(), inputs=[1.0])
    for name, words in (
        ("short.npz", "cannot be read"),
        ("text.npz", "cannot be read"),
        ("objects.npy", "cannot be read"),
        ("no.npz", "no such file"),
    ):
        with pytest.raises(UsageError, match=words):
            verify(cnn(), cnn(), inputs=tmp_path / name)


def test_one_array_for_several_inputs_is_an_error(tmp_path):
    np.save(tmp_path / "x.npy", IMAGE)
    two = model([node("Add", ["a", "b"], ["y"])], {"a": [2], "b": [2]}, ["y"])
    with pytest.raises(UsageError, match=r"2 inputs \(a, b\): use \.npz"):
        verify(two, two, inputs=tmp_path / "x.npy")
    with pytest.raises(UsageError, match="the given inputs: one array"):
        verify(two, two, inputs=IMAGE)


def test_an_own_input_on_which_the_original_fails_is_reported():
    narrow = {"x": np.ones((1, 4, 8, 8), np.float32)}
    check = verify(cnn(), cnn(), inputs=narrow)
    assert check.verdict == "not verified"
    mixed = verify(cnn(), cnn(), inputs=[narrow, {"x": IMAGE}])
    assert mixed.equivalent
    assert [feed for feed, _ in mixed.feeds.failed] == ["the given inputs"]


# -- stored with the model -----------------------------------------------------------------------


def zoo(tmp_path, expected, name="x"):
    """A model with a folder of test data beside it."""
    path = tmp_path / "model.onnx"
    path.write_bytes(cnn().SerializeToString())
    folder = tmp_path / "test_data_set_0"
    folder.mkdir()
    (folder / "input_0.pb").write_bytes(numpy_helper.from_array(IMAGE, name).SerializeToString())
    (folder / "output_0.pb").write_bytes(numpy_helper.from_array(expected, "y").SerializeToString())
    return path


def answer():
    import onnxruntime

    return onnxruntime.InferenceSession(cnn().SerializeToString()).run(None, {"x": IMAGE})[0]


@pytest.mark.parametrize("name", ["x", "", "other"])
def test_test_data_beside_the_model_are_used(tmp_path, name):
    check = verify(zoo(tmp_path, answer(), name), cnn())
    assert check.equivalent
    assert "test_data_set_0" in check.feeds.descriptions
    assert check.feeds.count == 1 + len(DISTRIBUTIONS)
    assert not check.notes


def test_an_original_that_does_not_give_its_stored_outputs_is_remarked_on(tmp_path):
    check = verify(zoo(tmp_path, answer() + 1), cnn())
    assert check.equivalent
    assert check.notes == ("the original does not give the outputs that are stored in test_data_set_0",)


@pytest.mark.parametrize("content", [b"damaged", b""])
def test_test_data_that_cannot_be_read_are_left_out(tmp_path, content):
    path = zoo(tmp_path, answer())
    (tmp_path / "test_data_set_0" / "input_0.pb").write_bytes(content)
    check = verify(path, cnn())
    assert check.equivalent
    assert "test_data_set_0" not in check.feeds.descriptions
