"""A Keras model from a changed graph: the original's layers where nothing changed, new ones where something did.

The original model is only read. Every layer is made anew from its configuration, so that neither its
weights nor its calls are touched.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from bnfold.errors import OutputError, shortened
from bnfold.formats.keras import topology
from bnfold.formats.keras.assembly import LayerPart, ModelPart, Part, WrappedPart, assemble
from bnfold.formats.keras.backend import quiet
from bnfold.formats.keras.layers import SPECS, weight
from bnfold.formats.keras.reading import Call, Reading, Scope
from bnfold.formats.keras.recipes import Recipe, recipe
from bnfold.graph import ModelGraph
from bnfold.temporary import temporary_folder

#: What Keras raises about a layer that it cannot make again from its own configuration.
_CLONE_ERRORS = (AttributeError, ImportError, LookupError, NotImplementedError, TypeError, ValueError)


def rebuild(keras: Any, graph: ModelGraph, reading: Reading, *, fresh: int | None = None) -> Any:
    """The ``keras.Model`` that computes what ``graph`` says, not compiled. Raises OutputError.

    With a seed in ``fresh`` the weights are what each layer's own initialisers make of it, by the layer's name, so that
    layers of one name in two models begin alike. What a layer learned from data beforehand (Normalization) stays.
    """
    builder = _Builder(keras, graph, reading, fresh)
    with quiet(), seeded(fresh):
        return builder.build(assemble(graph, reading))


@contextmanager
def seeded(seed: int | str | None) -> Iterator[None]:
    """Let initialisers and Dropout layers that are made without a seed draw one that follows from this one."""
    if seed is None:
        yield
        return
    state = random.getstate()  # which is where Keras draws them from
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


class _Builder:
    def __init__(self, keras: Any, graph: ModelGraph, reading: Reading, fresh: int | None) -> None:
        self.keras = keras
        self.fresh = fresh
        self.graph = graph
        self.reading = reading
        self._recipes: dict[int, Recipe] = {}
        #: The layers and models made for each model, by key.
        self._made: dict[int, dict[tuple[Any, ...], Any]] = {}
        self._layers: list[tuple[Recipe, Any]] = []

    def build(self, root: ModelPart) -> Any:
        model = self._model(root, root.scope.model.name)
        for made_from, layer in self._layers:
            with self._reported(layer):
                self._fill(made_from, layer)
        return model

    @contextmanager
    def _reported(self, layer: Any) -> Iterator[None]:
        """What Keras or TensorFlow raises about a layer is an OutputError that names it."""
        from tensorflow.errors import OpError

        try:
            yield
        except (*_CLONE_ERRORS, OpError) as error:
            text = re.sub(r"\x1b\[\d*m", "", str(error).split("Arguments received by", 1)[0])  # Keras prints in bold
            words = shortened(text or type(error).__name__)
            raise OutputError(f"layer {layer.name} ({type(layer).__name__}) cannot be built again: {words}") from error

    # -- models ----------------------------------------------------------------------------------

    def _model(self, part: ModelPart, name: str) -> Any:
        original = part.scope.model
        names = self._level_names(part)
        if isinstance(original, self.keras.Sequential) and self._is_chain(part):
            first = self._input(part.scope.network.inputs[0])
            layers = [self._layer(inner, names, part) for inner in part.parts]
            with self._reported(original):
                return self.keras.Sequential([first, *layers], trainable=original.trainable, name=name)
        inputs = self._inputs(part)
        tensors = dict(zip(part.inputs, inputs, strict=True))
        for inner in part.parts:
            layer = self._layer(inner, names, part)
            with self._reported(layer):
                results = self._call(inner, layer, [tensors[tensor] for tensor in inner.inputs])
            tensors.update(zip(inner.outputs, results, strict=True))
        outputs = [tensors[tensor] for tensor in part.outputs]
        network = part.scope.network
        return self.keras.Model(
            self._packed(topology.input_structure(network) if part.same_inputs else None, inputs),
            self._packed(topology.output_structure(network) if part.same_outputs else None, outputs),
            trainable=original.trainable,
            name=name,
        )

    def _is_chain(self, part: ModelPart) -> bool:
        """Does every layer read only the output of the one before it?"""
        tensors = part.inputs
        for inner in part.parts:
            if inner.inputs != tensors or len(inner.inputs) != 1 or len(inner.outputs) != 1:
                return False
            tensors = inner.outputs
        return bool(part.parts) and part.outputs == tensors

    def _inputs(self, part: ModelPart) -> list[Any]:
        originals = part.scope.network.inputs if part.same_inputs else [None] * len(part.inputs)
        inputs = []
        for name, original in zip(part.inputs, originals, strict=True):
            known = self.graph.tensor(name)
            if original is not None and known.shape is not None and _accepts(original.shape, known.shape):
                inputs.append(self._input(original).output)
            else:
                dtype = known.dtype.name if known.dtype is not None else None
                inputs.append(self.keras.Input(batch_shape=known.shape, dtype=dtype))
        return inputs

    def _input(self, tensor: Any) -> Any:
        layer = topology.input_layer(tensor)
        return type(layer).from_config(layer.get_config())

    def _packed(self, structure: Any, tensors: Sequence[Any]) -> Any:
        """Tensors in the structure of the original, or where that is None in the plainest one."""
        if structure is not None:
            return self.keras.tree.pack_sequence_as(structure, list(tensors))
        return list(tensors) if len(tensors) > 1 else tensors[0]

    # -- layers ----------------------------------------------------------------------------------

    def _key(self, part: Part) -> tuple[Any, ...]:
        """Parts with equal keys can be calls of one and the same layer or model."""
        if isinstance(part, LayerPart):
            return self._recipe(part).key
        if isinstance(part, WrappedPart):
            return ("wrapped", id(part.scope.wrapper), self._key(part.inner))
        numbers = {tensor: number for number, tensor in enumerate(part.inputs)}
        body = []
        for inner in part.parts:
            reads = tuple(numbers[tensor] for tensor in inner.inputs)
            numbers.update({tensor: len(numbers) + at for at, tensor in enumerate(inner.outputs)})
            body.append((self._key(inner), reads))
        return ("model", id(part.scope.model), tuple(body), tuple(numbers[tensor] for tensor in part.outputs))

    def _recipe(self, part: LayerPart) -> Recipe:
        if id(part) not in self._recipes:
            self._recipes[id(part)] = recipe(part, self.graph, self.reading)
        return self._recipes[id(part)]

    def _level_names(self, part: ModelPart) -> dict[tuple[Any, ...], str]:
        """A name for each layer within a model: its own, or with a number where it is taken there."""
        names: dict[tuple[Any, ...], str] = {}
        network = part.scope.network
        taken: set[str] = {topology.input_layer(tensor).name for tensor in network.inputs} if network else set()
        for inner in part.parts:
            key = self._key(inner)
            wanted = self._recipe(inner).name if isinstance(inner, LayerPart) else _called(inner.scope)
            if key in names:
                continue
            name, count = wanted, 1
            while name in taken:
                count += 1
                name = f"{wanted}_{count}"
            taken.add(name)
            names[key] = name
        return names

    def _layer(self, part: Part, names: dict[tuple[Any, ...], str], owner: ModelPart) -> Any:
        # Calls share a layer within one model alone: Keras's files know no layer that stands in two.
        key = self._key(part)
        made = self._made.setdefault(id(owner), {})
        if key not in made:
            if isinstance(part, ModelPart):
                made[key] = self._model(part, names[key])
            elif isinstance(part, WrappedPart):
                made[key] = self._wrapped(part, names[key])
            else:
                made_from = self._recipe(part)
                with seeded(None if self.fresh is None else f"{self.fresh}/{names[key]}"):
                    made[key] = self._make(made_from, names[key], part)
                self._layers.append((made_from, made[key]))
        return made[key]

    def _wrapped(self, part: WrappedPart, name: str) -> Any:
        """A TimeDistributed around its layer, or around a model of what that became."""
        inner, wrapper = part.inner, part.scope.wrapper
        first = inner.parts[0]
        single = len(inner.parts) == len(first.inputs) == len(first.outputs) == 1
        alone = single and not isinstance(first, ModelPart)
        if alone and part.scope.network is None:
            layer = self._layer(first, self._level_names(inner), inner)
        else:
            layer = self._model(inner, part.scope.model.name)
        return type(wrapper)(layer, name=name, dtype=wrapper.dtype_policy, trainable=wrapper.trainable)

    def _make(self, made_from: Recipe, name: str, part: LayerPart) -> Any:
        if made_from.layer is None:
            return self._make_new(made_from, name, part)
        layer = made_from.layer
        try:
            if isinstance(layer, self.keras.layers.Lambda):
                return self._copy_lambda(layer, name)
            config = self.keras.saving.serialize_keras_object(layer)
            config["config"] |= {**made_from.changes, "name": name}
            if made_from.is_changed:
                config.pop("build_config", None)  # the shapes of its weights may be others
            # The layer is in memory: nothing is run that its loading had not run, so nothing is left to guard.
            return self.keras.saving.deserialize_keras_object(
                config, custom_objects=self._custom_objects(layer), safe_mode=False
            )
        except _CLONE_ERRORS as error:
            raise OutputError(f"layer {layer.name} ({made_from.type}) cannot be written again: {error}") from error

    def _custom_objects(self, layer: Any) -> dict[str, Any]:
        cls = type(layer)
        if cls.__module__.split(".")[0] == "keras":
            return {}
        return {cls.__name__: cls, self.keras.saving.get_registered_name(cls): cls}

    def _copy_lambda(self, layer: Any, name: str) -> Any:
        # From its configuration a lambda would come back without the names it uses.
        config = {key: layer.get_config()[key] for key in ("trainable", "dtype")}
        return type(layer)(
            layer.function, output_shape=layer._output_shape, mask=layer.mask, arguments=layer.arguments,
            name=name, **config,
        )  # fmt: skip

    def _make_new(self, made_from: Recipe, name: str, part: LayerPart) -> Any:
        if made_from.type not in SPECS:
            raise OutputError(
                f"{part.op.display} ({made_from.type}) cannot be expressed as a Keras layer: write ONNX instead"
            )
        like = self._like(part)
        trainable = getattr(like.layer, "trainable", True) if like is not None else True
        layer = getattr(self.keras.layers, made_from.type)
        return layer(**made_from.changes, name=name, dtype=self._policy(part), trainable=trainable)

    def _like(self, part: LayerPart) -> Call | None:
        """The call that a new layer takes the place of, or that it was made for."""
        return part.call or self.reading.calls.get(str(part.op.attributes.get("like")))

    def _policy(self, part: LayerPart) -> Any:
        """The dtype policy of the layer a new one replaces, or of the one before it: mixed precision stays."""
        producer = self.graph.producer(part.op.inputs[0])
        call = self._like(part) or (self.reading.calls.get(producer.name) if producer is not None else None)
        return getattr(call.layer, "dtype_policy", None) if call is not None else None

    # -- calls -----------------------------------------------------------------------------------

    def _call(self, part: Part, layer: Any, tensors: list[Any]) -> list[Any]:
        if isinstance(part, WrappedPart):
            return [layer(tensors[0], **topology.settings(self.keras, part.scope.node))]
        if isinstance(part, ModelPart):
            node, network = part.scope.node, part.scope.network
            structure = self._packed(topology.input_structure(network) if part.same_inputs else None, tensors)
            return list(self.keras.tree.flatten(layer(structure, **topology.settings(self.keras, node))))
        call = part.call
        if call is None or self._recipe(part).layer is None:
            return list(self.keras.tree.flatten(layer(*tensors) if len(tensors) == 1 else layer(tensors)))
        if len(tensors) != len(call.tensor_slots):
            several = isinstance(topology.operands(call.node)[0], list | tuple)
            data = tensors if several else tensors[0]
            return list(self.keras.tree.flatten(layer(data, **topology.settings(self.keras, call.node))))
        args, kwargs = topology.fill_in(self.keras, call.node, tensors)
        if not isinstance(layer, self.keras.layers.Layer):
            args = self._operands(part, args)
        return list(self.keras.tree.flatten(layer(*args, **kwargs)))

    def _operands(self, part: LayerPart, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of an operation, with the constant that folding changed."""
        original = self.reading.graph.op(part.op.name)
        values = list(args)
        for slot, name in enumerate(part.op.inputs):
            param = self.graph.params.get(name)
            if param is not None and param is not self.reading.graph.params.get(original.input(slot)):
                values[slot] = param.array()
        return tuple(values)

    # -- weights ---------------------------------------------------------------------------------

    def _fill(self, made_from: Recipe, layer: Any) -> None:
        if not isinstance(layer, self.keras.layers.Layer):
            return
        original = made_from.layer
        if self.fresh is not None and not hasattr(layer, "adapt"):
            _copy_trainability(original, layer)
            return
        if original is not None and not made_from.is_changed:
            _copy_state(original, layer)
            return
        if original is not None:
            layer.trainable = original.trainable
            old = _numbered(original.variables)
            for key, variable in _numbered(layer.variables).items():
                source = old.get(key)
                if source is not None and source.shape == variable.shape:
                    variable.assign(source)
        for attribute, param in made_from.weights.items():
            weight(layer, attribute).assign(np.asarray(param.array()))


def _numbered(variables: Sequence[Any]) -> dict[tuple[str, int], Any]:
    """Variables by name and by how many of that name come before: both layers of a Bidirectional have a kernel."""
    seen: Counter[str] = Counter()
    found = {}
    for variable in variables:
        found[variable.name, seen[variable.name]] = variable
        seen[variable.name] += 1
    return found


def _called(scope: Scope) -> str:
    return str((scope.wrapper or scope.model).name)


def _accepts(declared: Sequence[int | None], shape: Sequence[Any]) -> bool:
    """Can a tensor of ``shape`` be fed to an input of the declared shape?"""
    return len(declared) == len(shape) and all(
        size is None or size == actual for size, actual in zip(declared, shape, strict=True)
    )


def _copy_trainability(original: Any, copy: Any) -> None:
    if original is None:
        return
    copy.trainable = original.trainable
    inner, own = original._flatten_layers(include_self=False), copy._flatten_layers(include_self=False)
    for old, new in zip(inner, own, strict=False):
        new.trainable = old.trainable


def _copy_state(original: Any, copy: Any) -> None:
    """Weights, trainability and assets of a layer and the layers inside it."""
    for old, new in zip(original._flatten_layers(), copy._flatten_layers(), strict=True):
        new.trainable = old.trainable
        store: dict[str, Any] = {}
        old.save_own_variables(store)
        new.load_own_variables({key: np.asarray(value) for key, value in store.items()})
        if hasattr(old, "save_assets"):
            with temporary_folder() as directory:
                old.save_assets(str(directory))
                new.load_assets(str(directory))
