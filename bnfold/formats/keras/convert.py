"""Keras models and SavedModels to ONNX, by tf2onnx."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bnfold.errors import ModelFileError, OutputError, shortened
from bnfold.formats.keras import topology
from bnfold.formats.keras.backend import import_keras, import_tf2onnx, quiet
from bnfold.formats.keras.files import LOAD_ERRORS
from bnfold.temporary import temporary_folder

#: Operations that touch files or call back into Python when a SavedModel is loaded or run.
_UNSAFE_OPERATIONS = {"EagerPyFunc", "MatchingFiles", "PyFunc", "PyFuncStateless", "ReadFile", "WriteFile"}


def keras_to_onnx(keras: Any, model: Any, target: Path, name: str) -> None:
    """Write a ``keras.Model`` as ONNX, the first dimension of what goes in and comes out named ``batch``.

    Raises OutputError where tf2onnx cannot express the model; ``name`` is how the sentence calls it.
    """
    import_tf2onnx()
    if any("bfloat16" in (layer.compute_dtype, layer.variable_dtype) for layer in model._flatten_layers()):
        raise OutputError(f"{name} cannot be converted to ONNX by tf2onnx: it computes in bfloat16")
    network = topology.functional(keras, model)
    signature = [topology.map_tensors(keras, topology.input_structure(network), lambda x: _input_spec(keras, x))]
    with temporary_folder() as directory:
        path = directory / "model.onnx"
        try:
            with quiet(), _inlined(), _constant_statistics(keras, model):
                model.export(str(path), format="onnx", verbose=False, input_signature=signature)
            converted = onnx.load(path)
        except LOAD_ERRORS as error:
            raise OutputError(f"{name} cannot be converted to ONNX by tf2onnx: {shortened(error)}") from error
    left = _not_converted(converted)
    if left:
        raise OutputError(f"{name} cannot be converted to ONNX by tf2onnx: it has no operator for {left}")
    if len(converted.graph.input) != len(network.inputs):
        raise OutputError(f"{name} cannot be converted to ONNX by tf2onnx: it made inputs of the model's constants")
    outputs = [tensor.shape for tensor in network.outputs]
    inputs = {tensor.name: tensor.shape for tensor in network.inputs}
    _name_batch(converted.graph, inputs, outputs)
    onnx.save(converted, target)


@contextmanager
def _inlined() -> Iterator[None]:
    """Let TensorFlow trace the functions that a layer calls into the model's own graph.

    Keras puts a grouped convolution into a function for the XLA compiler, which tf2onnx cannot look into.
    """
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


@contextmanager
def _constant_statistics(keras: Any, model: Any) -> Iterator[None]:
    """Let Normalization layers hold their statistics as numpy arrays meanwhile.

    As tensors they would be captured by the traced function, and tf2onnx makes inputs of those.
    """
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Normalization)]
    before = [(layer.mean, layer.variance) for layer in layers]
    try:
        for layer in layers:
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)
        yield
    finally:
        for layer, (mean, variance) in zip(layers, before, strict=True):
            layer.mean, layer.variance = mean, variance


def _input_spec(keras: Any, tensor: Any) -> Any:
    return keras.InputSpec(shape=(None, *tensor.shape[1:]), dtype=tensor.dtype, name=tensor.name)


def _not_converted(model: onnx.ModelProto) -> str:
    """The TensorFlow operations that tf2onnx left in the graph as they were, with no more than a line in its log."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    left: set[str] = set()
    graphs = [model.graph]
    while graphs:
        for node in graphs.pop().node:
            if node.domain not in versions or not onnx.defs.has(node.op_type, versions[node.domain], node.domain):
                left.add(node.op_type)
            graphs += [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
    return ", ".join(sorted(left))


def _name_batch(graph: Any, inputs: Mapping[str, Any], outputs: list[Any]) -> None:
    """Give every batch dimension one name; tf2onnx makes up a different one for each tensor."""
    values = [*graph.input, *graph.output]
    shapes = [inputs.get(value.name, (None,)) for value in graph.input]
    shapes += outputs if len(outputs) == len(graph.output) else [()] * len(graph.output)
    symbols = set()
    for value, shape in zip(values, shapes, strict=True):
        dims = value.type.tensor_type.shape.dim
        if dims and len(shape) and shape[0] is None and not dims[0].HasField("dim_value"):
            symbols.add(dims[0].dim_param)
            dims[0].dim_param = "batch"
    _rename_symbols([*values, *graph.value_info], symbols - {""})


def _rename_symbols(values: Iterable[Any], symbols: set[str]) -> None:
    for value in values:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_param = "batch"


def saved_model_to_onnx(folder: Path, allow_unsafe: bool) -> onnx.ModelProto:
    """A TensorFlow SavedModel's serving function as ONNX.

    Raises ModelFileError where the folder cannot be read or converted, or holds operations that
    touch files or run Python, unless ``allow_unsafe``.
    """
    import_keras()
    tf2onnx = import_tf2onnx()
    import tensorflow as tf

    if not allow_unsafe:
        _refuse_operations(folder)
    try:
        with quiet():
            loaded = tf.saved_model.load(str(folder))
            function = _serving_function(folder, loaded)
            signature = list(function.structured_input_signature[1].values())
            names = list(function.structured_input_signature[1])
            _patch_numpy()
            model, _ = tf2onnx.convert.from_function(
                tf.function(lambda *tensors: function(**dict(zip(names, tensors, strict=True)))), signature
            )
    except LOAD_ERRORS as error:
        raise ModelFileError(f"{folder} cannot be converted to ONNX by tf2onnx: {shortened(error)}") from error
    _name_batch(model.graph, {}, [(None,)] * len(model.graph.output))
    converted: onnx.ModelProto = model
    left = _not_converted(converted)
    if left:
        raise ModelFileError(f"{folder} cannot be converted to ONNX by tf2onnx: it has no operator for {left}")
    return converted


def _patch_numpy() -> None:
    """tf2onnx 1.17 still uses names that numpy 2 dropped; Keras's exporter has the remedy."""
    from keras.src.export.tf2onnx_lib import patch_tf2onnx

    patch_tf2onnx()


def _serving_function(folder: Path, loaded: Any) -> Any:
    signatures = loaded.signatures
    if "serving_default" in signatures:
        return signatures["serving_default"]
    if len(signatures) == 1:
        return next(iter(signatures.values()))
    names = ", ".join(signatures) or "none"
    raise ModelFileError(f"{folder} has no serving_default signature to read (it has {names})")


def _refuse_operations(folder: Path) -> None:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    proto = SavedModel()
    try:
        proto.ParseFromString((folder / "saved_model.pb").read_bytes())
    except (DecodeError, OSError) as error:
        raise ModelFileError(f"{folder} is damaged: its saved_model.pb cannot be read") from error
    for meta in proto.meta_graphs:
        graph = meta.graph_def
        used = {node.op for function in graph.library.function for node in function.node_def}
        found = _UNSAFE_OPERATIONS & (used | {node.op for node in graph.node})
        if found:
            raise ModelFileError(
                f"{folder} is refused: it uses {', '.join(sorted(found))}, which touch files or run code; if you trust "
                "its source, allow that with --allow-unsafe (allow_unsafe=True)"
            )
