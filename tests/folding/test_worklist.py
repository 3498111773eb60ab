"""The worklist: each operator in its turn, and again whoever depends on what has changed."""

from __future__ import annotations

from bnfold.folding.worklist import Worklist
from bnfold.graph import ModelGraph, Op, dataflow_order


def row(*names: str) -> tuple[ModelGraph, Worklist]:
    graph = ModelGraph()
    tensor = "x"
    for name in names:
        graph.put(Op(name, "Op", (tensor,), (f"{name}_out",)))
        tensor = f"{name}_out"
    return graph, Worklist(graph, dataflow_order(graph))


def drained(worklist: Worklist) -> list[str]:
    found = []
    while (name := worklist.pop()) is not None:
        found.append(name)
    return found


def test_each_comes_once_in_dataflow_order():
    _, worklist = row("c", "b", "a")
    worklist.add(["a", "b", "a", "c"])
    assert drained(worklist) == ["c", "b", "a"]
    assert drained(worklist) == []
    worklist.add(["b"])
    assert drained(worklist) == ["b"], "what has been popped may come again"


def test_what_is_gone_does_not_come():
    graph, worklist = row("a", "b")
    worklist.add(["a", "b", "never"])
    graph.remove("b")
    assert drained(worklist) == ["a"]


def test_what_is_gone_and_there_again_comes_once():
    graph, worklist = row("a", "b", "c")
    worklist.add(["a", "b", "c"])
    gone = graph.op("b")
    graph.remove("b")
    worklist.add_changed({"b"})
    graph.put(gone)
    assert drained(worklist) == ["a", "c"], "nobody has queued it since"
    worklist.add(["a", "b"])
    graph.remove("b")
    worklist.add_changed({"b"})
    graph.put(gone)
    worklist.add(["b"])
    assert drained(worklist) == ["a", "b"]


def test_dependents_come_again_once():
    _, worklist = row("a", "b", "c", "d")
    worklist.depend("a", ["c", "d"])
    worklist.depend("b", ["c"])
    worklist.add_changed({"c"})
    assert drained(worklist) == ["a", "b", "c"]
    worklist.add_changed({"c"})
    assert drained(worklist) == ["c"], "they asked once"
    worklist.add_changed({"d"})
    assert drained(worklist) == ["a", "d"]


def test_dependents_of_what_is_gone_come_again():
    graph, worklist = row("a", "b", "c")
    worklist.depend("a", ["c"])
    worklist.depend("b", ["a"])
    graph.remove("c")
    worklist.add_dependents_of_removed()
    assert drained(worklist) == ["a"]


def test_what_is_skipped_comes_when_it_is_added_again():
    _, worklist = row("a", "b", "c")
    worklist.add(["a", "b", "c"])
    worklist.skip(["b", "c"])
    worklist.add(["c"])
    assert drained(worklist) == ["a", "c"]
