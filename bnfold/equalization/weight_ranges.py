"""The largest absolute weight between every input and output channel of a linear operator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Vector
from bnfold.folding.gauges.component import Cells
from bnfold.operators.linear import Layout

Table = NDArray[np.float64]


def channel_table(layout: Layout) -> Table:
    """``[groups, out/groups, in/groups]`` the largest absolute weight over all taps, in float64."""
    weight, out, into = layout.weight, layout.weight_out, layout.weight_in
    rest = tuple(axis for axis in range(len(weight.shape)) if axis not in (out, into))
    blocks = [np.abs(weight.exact_rows(*rows)).max(axis=rest, initial=0.0) for rows in weight.row_blocks()]
    # Blocks are cut along the first axis: it counts channels, or taps that are covered like the rest.
    table = np.max(blocks, axis=0) if 0 in rest else np.concatenate(blocks)
    table = table if out < into else table.T  # [out, in]
    groups = layout.groups
    if table.shape[0] == layout.out_channels:
        return np.asarray(table.reshape(groups, -1, table.shape[1]))
    return np.asarray(table.reshape(table.shape[0], groups, -1).transpose(1, 0, 2))


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """An operator with weights between variables: ``logs`` is ``[groups, out, in]``, log2 of the largest weight.

    ``outs`` and ``ins`` are the variables of its output and input channels. Weights from a variable to itself say
    nothing about its scale and are left out.
    """

    outs: Cells
    ins: Cells
    logs: Table

    @classmethod
    def of(cls, outs: Cells, ins: Cells, table: Table) -> Link:
        with np.errstate(divide="ignore"):
            logs = np.log2(table)
        groups = len(table)
        first, second = outs.reshape(groups, -1, 1), ins.reshape(groups, 1, -1)
        logs[(first == second) & (first > 0)] = -np.inf
        return cls(outs, ins, logs)

    def _scaled(self, scales: Vector) -> Table:
        groups = len(self.logs)
        return self.logs + scales[self.outs].reshape(groups, -1, 1) - scales[self.ins].reshape(groups, 1, -1)

    def written(self, scales: Vector) -> Vector:
        """log2 of the largest weight of each output channel, where log2 of the variables is ``scales``."""
        return np.asarray(self._scaled(scales).max(axis=2, initial=-np.inf).reshape(-1))

    def read(self, scales: Vector) -> Vector:
        """The same of each input channel."""
        return np.asarray(self._scaled(scales).max(axis=1, initial=-np.inf).reshape(-1))
