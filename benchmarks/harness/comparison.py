"""Run every tool on a model, side by side, and weigh what each of them leaves."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .processes import Run, run
from .tools import Tool

_BENCHMARKS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Settings:
    """``size`` stands in for open dimensions of inputs; ``runs`` of 0 means one run, not timed."""

    runs: int = 5
    timeout: float = 600.0
    size: int = 224
    threads: int = 1
    latency_seconds: float = 10.0


@dataclass
class Row:
    """What one tool did with one model. Seconds, bytes and milliseconds; ``fault`` is ``""`` if it worked."""

    tool: str
    version: str = ""
    fault: str = ""
    walls: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    latency: float | None = None

    @property
    def wall(self) -> float | None:
        return statistics.median(self.walls) if self.walls else None

    @property
    def cpu(self) -> float | None:
        return statistics.median(self.cpus) if self.cpus else None

    @property
    def peak(self) -> int | None:
        return max(self.peaks, default=None)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "wall": self.wall, "cpu": self.cpu, "peak": self.peak}


@dataclass
class Comparison:
    """One model: what it was, and a row for every tool. ``rows[0]`` is the original."""

    model: str
    bytes: int
    rows: list[Row]

    def row(self, tool: str) -> Row | None:
        return next((row for row in self.rows if row.tool == tool), None)

    def to_dict(self) -> dict[str, Any]:
        return {"model": self.model, "bytes": self.bytes, "rows": [row.to_dict() for row in self.rows]}


def compare(
    model: Path, tools: Sequence[Tool], settings: Settings, say: Callable[[str], None] = lambda text: None
) -> Comparison:
    """Measure every tool on one model. The tools take turns, and who begins changes with every round."""
    model = model.resolve()
    rows = {tool.key: Row(tool.name, tool.version) for tool in tools}
    original = Row("original", result=_evaluate(settings, "count", str(model)))
    with tempfile.TemporaryDirectory(prefix="bnfold-bench-") as folder:
        targets = {tool.key: Path(folder, f"{tool.key}.onnx") for tool in tools}
        # The first round warms the disk cache and compiles the tools' Python files; it is not counted.
        for turn in range(settings.runs + 1):
            for tool in (*tools[turn % len(tools) :], *tools[: turn % len(tools)]):
                say(f"{model.name}: {tool.name}, " + (f"run {turn} of {settings.runs}" if turn else "warming up"))
                row = rows[tool.key]
                if not row.fault:
                    _measure(tool, row, model, targets[tool.key], settings, counted=turn > 0)
        for tool in tools:
            row = rows[tool.key]
            if not row.fault:
                say(f"{model.name}: {tool.name}, outputs")
                _weigh(row, model, targets[tool.key], settings)
        say(f"{model.name}: latency")
        working = [key for key, row in rows.items() if not row.fault]
        _latencies([original, *(rows[key] for key in working)], [model, *(targets[key] for key in working)], settings)
    return Comparison(model.stem, model.stat().st_size, [original, *rows.values()])


def _measure(tool: Tool, row: Row, model: Path, target: Path, settings: Settings, *, counted: bool) -> None:
    done = run(tool.command(model, target), timeout=settings.timeout, cwd=target.parent, environment=tool.environment)
    row.fault = done.fault or ("" if target.exists() else "wrote nothing")
    if counted and not row.fault:
        row.walls.append(done.wall)
        row.cpus.append(done.cpu)
        row.peaks.append(done.peak)


def _weigh(row: Row, model: Path, target: Path, settings: Settings) -> None:
    done = _process(settings, "difference", str(settings.size), str(model), str(target))
    row.fault = f"result: {done.fault}" if done.fault else ""
    if not row.fault:
        row.result = _answer(done)


def _latencies(rows: Sequence[Row], models: Sequence[Path], settings: Settings) -> None:
    if not settings.latency_seconds:
        return
    arguments = [str(settings.size), str(settings.threads), str(settings.latency_seconds)]
    for row, milliseconds in zip(rows, _evaluate(settings, "latency", *arguments, *map(str, models)), strict=True):
        row.latency = milliseconds


def _process(settings: Settings, *arguments: str) -> Run:
    command = [sys.executable, "-m", "harness.evaluate", *arguments]
    return run(command, timeout=settings.timeout, environment={"PYTHONPATH": str(_BENCHMARKS)})


def _evaluate(settings: Settings, *arguments: str) -> Any:
    done = _process(settings, *arguments)
    if done.fault:
        raise RuntimeError(f"{Path(arguments[-1]).name}: {done.fault}")
    return _answer(done)


def _answer(done: Run) -> Any:
    return json.loads(done.output.splitlines()[-1])
