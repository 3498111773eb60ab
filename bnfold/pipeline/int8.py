"""A model file and samples in, a table out: the model as it is, folded and equalised, each in int8."""

from __future__ import annotations

from os import PathLike

from bnfold import api
from bnfold.equalization import quantized_note
from bnfold.formats import load
from bnfold.graph import Model
from bnfold.operators.patterns import channel_ranges, linear_layout, spread_bits
from bnfold.pipeline.course import Progress, silent
from bnfold.quantization import Int8Report, WeightOf, measure_int8
from bnfold.temporary import temporary_folder

__all__ = ["int8_report"]


def int8_report(
    source: str | PathLike[str],
    data: str | PathLike[str],
    *,
    exact: bool = False,
    allow_unsafe: bool = False,
    progress: Progress = silent,
) -> Int8Report:
    """The model in ``source`` as it is, folded and equalised, each quantised to int8 and run on held-out ``data``.

    ``data`` is a ``.npz`` or ``.npy`` of samples of the inputs: every second one calibrates, the others measure. A
    Keras model is converted to ONNX first. Raises UsageError where the data do not fit, and what
    :func:`bnfold.load` raises.
    """
    progress("reading the model")
    loaded = api.load(source, allow_unsafe=allow_unsafe)
    note = quantized_note(loaded.inlined().graph)
    if note:
        return Int8Report(notes=(note,))
    with temporary_folder() as folder:
        models = {"original": loaded.as_onnx(folder)}
        original = load(models["original"])
        progress("folding and equalising")
        for name, model in (
            ("folded", api.fold(original).model),
            ("equalized", api.equalize(original, exact=exact).model),
        ):
            models[name] = folder / f"{name}.onnx"
            model.save(models[name])
        weights = {name: _weights(load(models[name])) for name in ("folded", "equalized")}
        progress("quantising and measuring")
        return measure_int8(models, data, weights)


def _weights(model: Model) -> list[WeightOf]:
    """The weights of a model's layers, with how far their ranges are apart."""
    pairs = ((op, linear_layout(model.graph, op)) for op in model.graph.ops())
    return [
        WeightOf(op.display, op.input(layout.weight_slot), spread_bits(channel_ranges(layout)))
        for op, layout in pairs
        if layout is not None
    ]
