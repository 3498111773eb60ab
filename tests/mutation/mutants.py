"""Mutants of Python source: each changes one condition, constant or operator, or lets one refusal go."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
}
SYMBOLS = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.Is: "is",
    ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in", ast.Add: "+", ast.Sub: "-", ast.Mult: "*",
    ast.FloorDiv: "//", ast.Div: "/", ast.Mod: "%", ast.And: "and", ast.Or: "or",
}  # fmt: skip


class Mutant(NamedTuple):
    """A changed source, and where and how it differs."""

    line: int
    change: str
    source: str


class _Change(NamedTuple):
    node: ast.expr | ast.stmt
    text: str
    what: str


def mutants(source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its lines."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    data, found = source.encode(), []
    for node, text, what in _changes(ast.parse(source)):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start, stop = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        changed = (data[:start] + text.encode() + data[stop:]).decode()
        if changed != source:
            found.append(Mutant(node.lineno, what, changed))
    return sorted(found)


def _changes(tree: ast.Module) -> Iterator[_Change]:
    skipped = _not_code(tree)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Compare):
            yield from _comparisons(node)
        elif isinstance(node, ast.BoolOp):
            yield from _connectives(node)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield _Change(node, f"({ast.unparse(node.operand)})", "not dropped")
        elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            yield _operator(node)
        elif isinstance(node, ast.Constant):
            yield from _constants(node)
        elif isinstance(node, (ast.If, ast.IfExp, ast.While)):
            yield _Change(node.test, f"(not ({ast.unparse(node.test)}))", "condition negated")
        if isinstance(node, ast.If) and _refuses(node):
            yield _Change(node.test, "False", "refusal removed")


def _not_code(tree: ast.Module) -> set[ast.AST]:
    """Annotations, docstrings, f-strings, decorators, imports, assertions."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        roots: list[ast.AST | None] = []
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            roots += node.decorator_list
        if isinstance(node, ast.FunctionDef):
            roots += [node.returns, *(arg.annotation for arg in [*node.args.args, *node.args.kwonlyargs])]
        if isinstance(node, ast.AnnAssign):
            roots.append(node.annotation)
        if isinstance(node, ast.Assert):
            roots.append(node)
        if isinstance(node, (ast.JoinedStr, ast.Import, ast.ImportFrom)):
            roots.append(node)
        if isinstance(node, ast.keyword) and node.arg == "strict":
            roots.append(node.value)  # zip's own check of what is known to be of one length
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            roots.append(node.value)
        for root in roots:
            found.update(ast.walk(root) if root is not None else ())
    return found


def _refuses(node: ast.If) -> bool:
    """Does the statement do nothing but give an answer early?"""
    return not node.orelse and len(node.body) == 1 and isinstance(node.body[0], ast.Return)


def _comparisons(node: ast.Compare) -> Iterator[_Change]:
    for index, op in enumerate(node.ops):
        for other in COMPARISONS[type(op)]:
            ops = [other() if place == index else kept for place, kept in enumerate(node.ops)]
            text = ast.unparse(ast.Compare(node.left, ops, node.comparators))
            yield _Change(node, f"({text})", f"{SYMBOLS[type(op)]} → {SYMBOLS[other]}")


def _connectives(node: ast.BoolOp) -> Iterator[_Change]:
    other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    text = f" {SYMBOLS[type(other)]} ".join(f"({ast.unparse(value)})" for value in node.values)
    yield _Change(node, f"({text})", f"{SYMBOLS[type(node.op)]} → {SYMBOLS[type(other)]}")
    for index, value in enumerate(node.values):
        rest = [f"({ast.unparse(kept)})" for place, kept in enumerate(node.values) if place != index]
        text = f" {SYMBOLS[type(node.op)]} ".join(rest)
        yield _Change(node, f"({text})", f"without {ast.unparse(value)[:60]!r}")


def _operator(node: ast.BinOp) -> _Change:
    other = ARITHMETIC[type(node.op)]
    text = ast.unparse(ast.BinOp(node.left, other(), node.right))
    return _Change(node, f"({text})", f"{SYMBOLS[type(node.op)]} → {SYMBOLS[other]}")


def _constants(node: ast.Constant) -> Iterator[_Change]:
    if isinstance(node.value, bool):
        yield _Change(node, str(not node.value), f"{node.value} → {not node.value}")
    elif isinstance(node.value, int) and node.value in (0, 1, 2):
        other = 1 if node.value == 0 else node.value - 1
        yield _Change(node, str(other), f"{node.value} → {other}")
