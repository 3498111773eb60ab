"""LSTM, GRU and RNN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bnfold.graph import Array
from bnfold.verification.float64.elementwise import ACTIVATIONS, UNARY
from bnfold.verification.float64.registry import Call, NotEvaluatedError, operator

Function = Callable[[Array], Any]
#: Defaults that differ from those of the operator of that name.
_SPECIAL: dict[str, Callable[[Array, float, float], Any]] = {
    "Affine": lambda x, alpha, beta: alpha * x + beta,
    "ScaledTanh": lambda x, alpha, beta: alpha * np.tanh(beta * x),
}


@operator("LSTM", "GRU", "RNN")
def _recurrent(call: Call) -> Any:
    x, w, r = call.inputs[:3]
    directions, hidden = w.shape[0], r.shape[2]
    batch_first = bool(call.attribute("layout", 0))
    x = np.swapaxes(x, 0, 1) if batch_first else x
    steps, batch = x.shape[:2]
    lengths = np.full(batch, steps) if call.get(4) is None else np.asarray(call.inputs[4])
    start = np.zeros((directions, batch, hidden))
    hidden0 = start if call.get(5) is None else _directions_first(call.inputs[5], batch_first)
    cells = call.op_type == "LSTM"
    cell0 = start if not cells or call.get(6) is None else _directions_first(call.inputs[6], batch_first)
    functions = _functions(call, directions)
    ys, hs, cs = np.zeros((steps, directions, batch, hidden)), [], []
    for d in range(directions):
        back = call.attribute("direction", "forward") == "reverse" or d == 1
        bias = np.zeros(2 * w.shape[1]) if call.get(3) is None else call.inputs[3][d]
        peephole = call.get(7)[d] if cells and call.get(7) is not None else np.zeros(3 * hidden)
        cell = _Cell(call, w[d], r[d], bias, peephole, functions[d])
        h, c = hidden0[d], cell0[d]
        for step in range(steps):
            # Each sequence is read backwards from its own end.
            at = np.where(step < lengths, lengths - 1 - step, step) if back else np.full(batch, step)
            alive = (step < lengths)[:, None]
            fresh, kept = cell(x[at, np.arange(batch)], h, c)
            h, c = np.where(alive, fresh, h), np.where(alive, kept, c)
            ys[at, d, np.arange(batch)] = np.where(alive, fresh, 0.0)
        hs.append(h)
        cs.append(c)
    last_h, last_c = np.stack(hs), np.stack(cs)
    if batch_first:
        ys, last_h, last_c = ys.transpose(2, 0, 1, 3), np.swapaxes(last_h, 0, 1), np.swapaxes(last_c, 0, 1)
    return (ys, last_h, last_c) if cells else (ys, last_h)


def _directions_first(state: Array, batch_first: bool) -> Array:
    return np.swapaxes(state, 0, 1) if batch_first else state


class _Cell:
    """One direction's step: (input, hidden, cell) to (hidden, cell)."""

    def __init__(
        self, call: Call, w: Array, r: Array, bias: Array, peephole: Array, functions: Sequence[Function]
    ) -> None:
        self._kind, self._w, self._r, self._p = call.op_type, w.T, r.T, peephole
        self._wb, self._rb = np.split(bias, 2)
        self._f = functions
        clip = call.attribute("clip")
        self._bounded: Function = (lambda x: x) if not clip else (lambda x: np.clip(x, -clip, clip))
        self._before = bool(call.attribute("linear_before_reset", 0))
        self._coupled = bool(call.attribute("input_forget", 0))
        self._size = r.shape[1]

    def __call__(self, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        step = {"LSTM": self._lstm, "GRU": self._gru, "RNN": self._rnn}[self._kind]
        return step(x @ self._w + self._wb, h, c)

    def _lstm(self, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        f, g, out = self._f
        i_, o_, f_, c_ = np.split(x + h @ self._r + self._rb, 4, axis=-1)
        pi, po, pf = np.split(self._p, 3)
        i = f(self._bounded(i_ + pi * c))
        forget = 1.0 - i if self._coupled else f(self._bounded(f_ + pf * c))
        c = forget * c + i * g(self._bounded(c_))
        return f(self._bounded(o_ + po * c)) * out(c), c

    def _gru(self, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        f, g = self._f
        n = self._size
        gates = x[:, : 2 * n] + h @ self._r[:, : 2 * n] + self._rb[: 2 * n]
        z, reset = np.split(f(self._bounded(gates)), 2, axis=-1)
        r, rb = self._r[:, 2 * n :], self._rb[2 * n :]
        inner = reset * (h @ r + rb) if self._before else (reset * h) @ r + rb
        return (1.0 - z) * g(self._bounded(x[:, 2 * n :] + inner)) + z * h, c

    def _rnn(self, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        return self._f[0](self._bounded(x + h @ self._r + self._rb)), c


def _functions(call: Call, directions: int) -> list[list[Function]]:
    default = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}[call.op_type]
    names = call.attribute("activations", default * directions)
    alphas, betas = iter(call.attribute("activation_alpha", [])), iter(call.attribute("activation_beta", []))
    found = [_function(name, alphas, betas) for name in names]
    each = len(default)
    return [found[d * each : (d + 1) * each] for d in range(directions)]


def _function(name: str, alphas: Any, betas: Any) -> Function:
    known = {key.lower(): key for key in (*UNARY, *ACTIVATIONS, *_SPECIAL)}
    key = known.get(name.lower(), "")
    if key in UNARY:
        return UNARY[key]
    if key in _SPECIAL:
        alpha, beta = next(alphas, 1.0), next(betas, 1.0)
        return lambda x: _SPECIAL[key](x, alpha, beta)
    if key not in ACTIVATIONS:
        raise NotEvaluatedError(f"the activation {name} is not known here")
    function, defaults = ACTIVATIONS[key]
    values = {name: next(alphas if name == "alpha" else betas, value) for name, value in defaults.items()}
    return lambda x: function(x, **values)
