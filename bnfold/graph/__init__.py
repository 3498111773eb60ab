"""A trained model as a graph of operators, the same for every file format.

A :class:`ModelGraph` holds operators (:class:`Op`), the constants they read (:class:`Param`) and
what is known about the tensors between them (:class:`Tensor`). It answers the questions folding
asks: who produces this tensor, who reads it, is it a constant, does anyone else observe it.
"""

from bnfold.graph.dataflow import dataflow_order
from bnfold.graph.dtypes import Array, Limits, float_limits, is_float
from bnfold.graph.elements import Dim, Op, Shape, Tensor, Use
from bnfold.graph.model import Computed, ConvertedModel, Exact, Model, ParameterAccount, Staged, TrainableModel
from bnfold.graph.modelgraph import Evaluator, Inference, ModelGraph, walk
from bnfold.graph.order import Order, Place
from bnfold.graph.parameters import BLOCK_BYTES, Derived, Memory, Param, ParamData

__all__ = [
    "BLOCK_BYTES",
    "Array",
    "Computed",
    "ConvertedModel",
    "Derived",
    "Dim",
    "Evaluator",
    "Exact",
    "Inference",
    "Limits",
    "Memory",
    "Model",
    "ModelGraph",
    "Op",
    "Order",
    "Param",
    "ParamData",
    "ParameterAccount",
    "Place",
    "Shape",
    "Staged",
    "Tensor",
    "TrainableModel",
    "Use",
    "dataflow_order",
    "float_limits",
    "is_float",
    "walk",
]
