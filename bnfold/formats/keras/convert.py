"""Keras models and SavedModels to ONNX, by tf2onnx."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bnfold.errors import ModelFileError, OutputError, shortened
from bnfold.formats.keras import saved_layers, topology
from bnfold.formats.keras.backend import import_keras, import_tf2onnx, quiet
from bnfold.formats.keras.files import LOAD_ERRORS
from bnfold.formats.keras.saved_names import name_by_layers
from bnfold.formats.keras.skeleton import Skeleton, can_be_argument

#: Operations that touch files or call back into Python when a SavedModel is loaded or run.
_UNSAFE_OPERATIONS = {"EagerPyFunc", "MatchingFiles", "PyFunc", "PyFuncStateless", "ReadFile", "WriteFile"}

#: What may not stand in the name of a TensorFlow scope, and what it may not begin with.
_NO_SCOPE = re.compile(r"[^A-Za-z0-9_./-]|^[^A-Za-z0-9.]")


def keras_to_onnx(keras: Any, model: Any, name: str) -> Skeleton:
    """A ``keras.Model`` as ONNX, the first dimension of what goes in and comes out named ``batch``.

    Raises OutputError where tf2onnx cannot express the model; ``name`` is how the sentence calls it.
    """
    import_tf2onnx()
    if any("bfloat16" in (layer.compute_dtype, layer.variable_dtype) for layer in model._flatten_layers()):
        raise OutputError(f"{name} cannot be converted to ONNX by tf2onnx: it computes in bfloat16")
    kernels = [variable for variable in model.variables if len(variable.shape) > 1 and "float" in variable.dtype]
    try:
        skeleton = _convert(keras, model, name, kernels)
    except OutputError:
        # tf2onnx needs the value of a weight.
        skeleton = _convert(keras, model, name, [])
    network = topology.functional(keras, model)
    inputs = {tensor.name: tensor.shape for tensor in network.inputs}
    _name_batch(skeleton.model.graph, inputs, [tensor.shape for tensor in network.outputs])
    return skeleton


def _convert(keras: Any, model: Any, name: str, kernels: Sequence[Any]) -> Skeleton:
    """The conversion with those of ``kernels`` as inputs that can be. Raises OutputError."""
    tf2onnx = import_tf2onnx()
    try:
        with quiet(), _inlined(), _traceable(keras, model):
            traced = _traced(keras, model, kernels)
            kept = [variable for variable in kernels if traced.can_be_argument(variable)]
            if len(kept) < len(kernels):
                traced = _traced(keras, model, kept)
            _patch_numpy()
            converted, _ = tf2onnx.convert.from_function(traced.function, traced.signature)
    except LOAD_ERRORS as error:
        raise OutputError(f"{name} cannot be converted to ONNX by tf2onnx: {shortened(error)}") from error
    _write_erfc_out(converted.graph)
    left = _not_converted(converted)
    if left:
        raise OutputError(f"{name} cannot be converted to ONNX by tf2onnx: it has no operator for {left}")
    inputs = {value.name for value in converted.graph.input} - set(traced.weights)
    if len(inputs) != len(topology.functional(keras, model).inputs):
        raise OutputError(f"{name} cannot be converted to ONNX by tf2onnx: it made inputs of the model's constants")
    arguments = {id(variable) for variable in kept}
    constants = [variable for variable in model.variables if id(variable) not in arguments]
    return Skeleton.of(converted, traced.weights, constants)


@dataclass(frozen=True, eq=False, slots=True)
class _Traced:
    """What a Keras model computes as a TensorFlow function of its inputs and some of its weights."""

    function: Any
    signature: tuple[Any, ...]
    #: The variables by the names that their arguments have.
    weights: Mapping[str, Any]

    def can_be_argument(self, variable: Any) -> bool:
        tensors = self.function.get_concrete_function(*self.signature).inputs
        names = {name for name, value in self.weights.items() if value is variable}
        return all(can_be_argument(tensor) for tensor in tensors if tensor.op.name in names)


def _traced(keras: Any, model: Any, kernels: Sequence[Any]) -> _Traced:
    import tensorflow as tf

    def compute(inputs: Any, weights: Any) -> Any:
        with keras.StatelessScope(list(zip(kernels, weights, strict=True))):
            return model(inputs)

    structure = topology.input_structure(topology.functional(keras, model))
    inputs = topology.map_tensors(keras, structure, _input_spec)
    # A name stands for what the weights are: two models whose weights differ share none, and random numbers that are
    # drawn by names are the same each time.
    digest = 0
    for variable in kernels:
        digest = zlib.crc32(np.ascontiguousarray(variable).view(np.uint8).data, digest)
    taken = {tensor.name for tensor in topology.functional(keras, model).inputs} | {x.name for x in model.layers}
    stem = f"weight_{digest:08x}"
    while any(name.startswith(stem) for name in taken):
        stem += "_"
    weights = {f"{stem}_{number}": variable for number, variable in enumerate(kernels)}
    arguments = [tf.TensorSpec(variable.shape, variable.dtype, name) for name, variable in weights.items()]
    function = tf.function(compute, autograph=False)
    signature = (inputs, arguments)
    function.get_concrete_function(*signature)
    return _Traced(function, signature, weights)


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
def _traceable(keras: Any, model: Any) -> Iterator[None]:
    """Let the layers of a model be such meanwhile that tf2onnx makes of them what they are at inference."""
    with (
        valid_names(model),
        _constant_statistics(keras, model),
        _fused_batchnorms(keras, model),
        _at_inference(keras, model),
    ):
        yield


@contextmanager
def valid_names(model: Any) -> Iterator[None]:
    """Let layers have names meanwhile that TensorFlow takes for scopes: other backends of Keras take any."""
    before = {layer: layer.name for layer in model._flatten_layers() if _NO_SCOPE.search(layer.name)}
    try:
        for layer, name in before.items():
            layer.name = _NO_SCOPE.sub(".", name)
        yield
    finally:
        for layer, name in before.items():
            layer.name = name


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


@contextmanager
def _fused_batchnorms(keras: Any, model: Any) -> Iterator[None]:
    """Let BN layers over the channels of pictures be one operation meanwhile, which tf2onnx makes one operator of.

    As arithmetic, which Keras makes of them, their statistics would be folded in float32 and not be found again.
    """
    layers = [layer for layer in model._flatten_layers() if type(layer) is keras.layers.BatchNormalization]
    own = [layer for layer in layers if "call" not in vars(layer)]
    try:
        for layer in own:
            layer.call = partial(_batchnorm, layer, layer.call)
        yield
    finally:
        for layer in own:
            del layer.call


@contextmanager
def _at_inference(keras: Any, model: Any) -> Iterator[None]:
    """Let layers do what they do when the model predicts, but for those that a call asks for training behaviour.

    Keras hands what one layer is told about training on to those after it, and layers that change pictures at random
    train unless they are told not to.
    """
    layers = topology.inferring_layers(keras, topology.functional(keras, model))
    before = [vars(layer).get("call") for layer in layers]
    try:
        for layer in layers:
            layer.call = partial(_inferring, layer.call)
        yield
    finally:
        for layer, call in zip(layers, before, strict=True):
            if call is None:
                del layer.call
            else:
                layer.call = call


def _inferring(call: Any, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
    return call(*args, training=False, **kwargs)


def _batchnorm(layer: Any, call: Any, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
    """What ``call`` does, as one operation where there is one for it."""
    import tensorflow as tf

    data_format = {1: "NCHW", 3: "NHWC", -1: "NHWC"}.get(layer.axis)
    in_float32 = inputs.dtype == tf.float32 and (layer.compute_dtype, layer.variable_dtype) == ("float32", "float32")
    if len(inputs.shape) != 4 or data_format is None or not in_float32 or (training and layer.trainable):
        return call(inputs, training=training, mask=mask)
    mean, variance = (tf.convert_to_tensor(value) for value in (layer.moving_mean, layer.moving_variance))
    gamma = tf.convert_to_tensor(layer.gamma) if layer.scale else tf.ones_like(variance)
    beta = tf.convert_to_tensor(layer.beta) if layer.center else tf.zeros_like(mean)
    return tf.raw_ops.FusedBatchNormV3(
        x=inputs, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=layer.epsilon,
        data_format=data_format, is_training=False,
    ).y  # fmt: skip


def _input_spec(tensor: Any) -> Any:
    import tensorflow as tf

    return tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype, tensor.name)


def _write_erfc_out(graph: onnx.GraphProto) -> None:
    """Replace TensorFlow's Erfc, of which Keras makes its GELU and ONNX has no counterpart, by ``1 - Erf(x)``."""
    nodes = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _write_erfc_out(attribute.g)
        if node.op_type != "Erfc":
            nodes.append(node)
            continue
        (output,), stem = node.output, node.name or node.output[0]
        one, alike, erf = (f"{stem}/{part}" for part in ("one", "one_alike", "erf"))
        nodes += [
            onnx.helper.make_node("Erf", node.input, [erf], name=erf),
            onnx.helper.make_node("Constant", [], [one], name=one, value_float=1.0),
            onnx.helper.make_node("CastLike", [one, erf], [alike], name=alike),
            onnx.helper.make_node("Sub", [alike, erf], [output], name=stem),
        ]
    if len(nodes) > len(graph.node):
        del graph.node[:]
        graph.node.extend(nodes)


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
            _patch_numpy()
            model = _convert_function(tf, tf2onnx, function)
    except (*LOAD_ERRORS, tf.errors.OpError) as error:
        raise ModelFileError(f"{folder} cannot be converted to ONNX by tf2onnx: {shortened(error)}") from error
    _name_batch(model.graph, {}, [(None,)] * len(model.graph.output))
    converted = model
    _write_erfc_out(converted.graph)
    left = _not_converted(converted)
    if left:
        raise ModelFileError(f"{folder} cannot be converted to ONNX by tf2onnx: it has no operator for {left}")
    converted.graph.name = folder.resolve().name
    name_by_layers(converted, [variable.name for variable in function.variables])
    return converted


def _convert_function(tf: Any, tf2onnx: Any, function: Any) -> onnx.ModelProto:
    """A concrete function, its inputs and outputs called as its signature calls them."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False, aggressive_inlining=True)
    graph_def = frozen.graph.as_graph_def()
    ranks = {op.name: op.outputs[0].shape.rank for op in frozen.graph.get_operations() if op.outputs}
    held = saved_layers.hold(tf, graph_def, ranks)
    inputs = [tensor.name for tensor in frozen.inputs]
    renamed = {name: name.partition(":")[0] for name in inputs}
    # TensorFlow flattens a dictionary in the order of its keys.
    keys = sorted(function.structured_outputs)
    renamed.update({tensor.name: key for key, tensor in zip(keys, frozen.outputs, strict=True)})
    model, _ = tf2onnx.convert.from_graph_def(
        graph_def,
        input_names=[*inputs, *held.vectors],
        output_names=[tensor.name for tensor in frozen.outputs],
        tensors_to_rename=renamed,
    )
    saved_layers.restore(model, held)
    converted: onnx.ModelProto = model
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
