"""What ``restyle`` changes in a graph of Keras layers: where BN stands, in a model that goes on being trained."""

from __future__ import annotations

from bnfold.restyling.change import Change, Kind, LeftAlone, Restyled
from bnfold.restyling.listing import difference, listing
from bnfold.restyling.restyle import restyle_graph
from bnfold.restyling.style import Norm, Style, style_of

__all__ = [
    "Change",
    "Kind",
    "LeftAlone",
    "Norm",
    "Restyled",
    "Style",
    "difference",
    "listing",
    "restyle_graph",
    "style_of",
]
