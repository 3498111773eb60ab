"""Keras: its dialect, and the facts about its layers; importing them registers them."""

from bnfold.operators.keras import attention, join_layers, linear_layers, normalization_layers, operations, plain_layers
from bnfold.operators.keras.dialect import KERAS

__all__ = ["KERAS", "attention", "join_layers", "linear_layers", "normalization_layers", "operations", "plain_layers"]
