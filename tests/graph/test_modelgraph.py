"""ModelGraph: who produces, who reads, what is constant, and changes that leave others alone."""

from __future__ import annotations

import networkx
import numpy as np
import pytest

from bnfold.graph import ModelGraph, Op, Param, Tensor, Use, walk


def op(name: str, inputs: str, outputs: str, kind: str = "Relu", **extra) -> Op:
    """An operator; tensors are written in one string, one letter each, ``-`` for one that is left out."""
    names = [tuple("" if letter == "-" else letter for letter in text) for text in (inputs, outputs)]
    return Op(name, kind, *names, **extra)


def small() -> ModelGraph:
    """x → a → b → y, and b → c → z beside it; w is a constant that a reads."""
    graph = ModelGraph()
    graph.inputs = [Tensor("x", np.dtype(np.float32), (2, "N"))]
    graph.params["w"] = Param.of("w", np.arange(3.0))
    for made in (op("one", "xw", "a"), op("two", "a", "b"), op("three", "b", "y"), op("four", "b", "z")):
        graph.put(made)
    graph.outputs = ["y", "z"]
    return graph


# -- reading -----------------------------------------------------------------------------------------


def test_who_produces_and_who_reads():
    graph = small()
    assert graph.producer("b").name == "two"
    assert graph.producer("x") is None
    assert graph.producer("w") is None
    assert graph.consumers("b") == [Use("three", 0), Use("four", 0)]
    assert graph.consumers("w") == [Use("one", 1)]
    assert list(graph.uses("nobody")) == []
    assert graph.use_count("b") == 2
    assert graph.is_output("y")
    assert not graph.is_output("b")
    assert graph.is_input("x")
    assert not graph.is_input("w")
    assert len(graph) == 4
    assert "two" in graph


def test_what_is_known_of_a_tensor_compares_by_value():
    known = Tensor("x", np.dtype(np.float32), (2, "N"))
    assert known == Tensor("x", np.dtype(np.float32), (2, "N"))
    assert len({known, Tensor("x", np.dtype(np.float32), (2, "N")), Tensor("x")}) == 2


def test_what_is_used():
    graph = small()
    graph.put(op("loop", "-", "l", "Loop", captures=("n",)))
    used = [tensor for tensor in "xwabyznl-" if graph.is_used(tensor)]
    assert used == ["x", "w", "a", "b", "y", "z", "n"], (
        "a body's reads and the outputs count, what nobody reads does not"
    )
    graph.remove("two")
    assert not graph.is_used("a")


def test_who_else_observes():
    graph = small()
    assert graph.sole_reader("a") == Use("two", 0)
    assert graph.sole_reader("b") is None, "two readers"
    assert graph.sole_reader("y") is None, "no reader"
    graph.put(op("loop", "-", "l", "Loop", captures=("a", "n"), label="my_loop"))
    assert graph.sole_reader("a") is None, "one reader and a body"
    assert graph.sole_reader("n") is None, "a body alone"
    assert graph.captured("a").name == "loop"
    assert graph.captured("b") is None


def test_an_output_that_is_read_has_no_sole_reader():
    graph = small()
    graph.outputs = ["y", "z", "a"]
    assert graph.use_count("a") == 1
    assert graph.sole_reader("a") is None


def test_an_operator_without_a_name_is_called_by_its_output():
    assert op("Relu_3", "x", "-y").display == "y"
    assert op("Relu_3", "x", "y", label="act").display == "act"
    assert op("Relu_3", "x", "-").display == "Relu_3"
    assert op("Relu_3", "x", "y").input(5) == ""


def test_the_digraph_is_networkx():
    digraph = small().digraph
    assert isinstance(digraph, networkx.MultiDiGraph)
    assert set(networkx.ancestors(digraph, "four")) == {"one", "two"}
    assert list(networkx.topological_sort(digraph))[:2] == ["one", "two"]
    assert digraph.edges["two", "four", 0] == {"tensor": "b", "slot": 0}
    assert digraph.nodes["one"]["op"].inputs == ("x", "w")


def test_the_digraph_follows_changes():
    graph = small()
    assert "four" in graph.digraph
    graph.remove("four")
    assert "four" not in graph.digraph
    assert graph.digraph is graph.digraph


# -- constants ---------------------------------------------------------------------------------------


def computing() -> tuple[ModelGraph, list[str]]:
    """A graph whose evaluator adds one, and the names of the operators it was asked for."""
    asked: list[str] = []

    def evaluate(_: ModelGraph, made: Op, inputs):
        asked.append(made.name)
        if made.type != "Plus" or None in inputs:
            return None
        return [Param.of(made.outputs[0], inputs[0].array() + 1)]

    graph = ModelGraph(evaluate=evaluate)
    graph.inputs = [Tensor("x")]
    graph.params["w"] = Param.of("w", np.zeros(2))
    return graph, asked


def test_operators_on_constants_alone_are_constants():
    graph, asked = computing()
    graph.put(op("p", "w", "a", "Plus"))
    graph.put(op("q", "a", "b", "Plus"))
    graph.put(op("r", "b", "c", "Other"))
    graph.put(op("s", "x", "d", "Plus"))
    assert graph.constant("b").array().tolist() == [2, 2]
    assert graph.constant("c") is None
    assert graph.constant("d") is None
    assert graph.constant("x") is None
    assert graph.constant("") is None
    assert graph.constant("b").array().tolist() == [2, 2]
    assert asked == ["p", "q", "r", "s"]


def test_a_long_row_of_constants_is_computed_without_recursion():
    graph, _ = computing()
    graph.put(Op("0", "Plus", ("w",), ("t0",)))
    for index in range(1, 3000):
        graph.put(Op(str(index), "Plus", (f"t{index - 1}",), (f"t{index}",)))
    assert graph.constant("t2999").array().tolist() == [3000, 3000]


def test_an_operator_that_reads_from_its_body_is_not_computed():
    graph, asked = computing()
    graph.put(op("p", "w", "a", "Plus", captures=("x",)))
    assert graph.constant("a") is None
    assert not asked


def test_overridable_params_are_constants_only_where_they_are_frozen():
    graph, _ = computing()
    graph.overridable = {"w"}
    graph.put(op("p", "w", "a", "Plus"))
    assert graph.constant("a") is not None
    graph.freeze_overridable = False
    assert graph.constant("w") is None
    assert graph.constant("a") is None


def test_a_body_sees_the_constants_around_it_but_not_behind_its_own_inputs():
    outer, _ = computing()
    inner = ModelGraph(parent=outer)
    inner.inputs = [Tensor("v")]
    outer.params["v"] = Param.of("v", np.ones(1))
    assert inner.constant("w") is outer.params["w"]
    assert inner.constant("v") is None


# -- shapes ------------------------------------------------------------------------------------------


def inferring(known: dict[str, Tensor]) -> tuple[ModelGraph, list[int]]:
    """A graph whose inference knows these tensors, and a list that grows with every run of it."""
    runs: list[int] = []

    def infer(graph: ModelGraph):
        runs.append(len(graph))
        return known

    return ModelGraph(infer=infer), runs


FLOAT = np.dtype(np.float32)


def test_shapes_are_inferred_once_and_complete_what_is_declared():
    graph, runs = inferring({"a": Tensor("a", FLOAT, (2, 3)), "b": Tensor("b", FLOAT, (4,))})
    graph.declare(Tensor("a", None, ("N", 3)))
    assert not runs
    assert graph.tensor("a") == Tensor("a", FLOAT, (2, 3))
    assert graph.tensor("b").shape == (4,)
    assert graph.tensor("c") == Tensor("c")
    assert graph.rank("a") == 2
    assert graph.rank("c") is None
    assert graph.dim("a", 1) == 3
    assert graph.dim("a", 0) == 2
    assert graph.dim("a", 5) is None
    assert runs == [0]


def test_what_is_declared_in_full_needs_no_inference():
    graph, runs = inferring({})
    graph.declare(Tensor("a", FLOAT, (2,)))
    graph.put(op("one", "x", "a"))
    graph.complete_shapes()
    assert graph.tensor("a").shape == (2,)
    assert not runs


def test_shapes_are_completed_before_a_change_in_the_graphs_around_first():
    outer, outer_runs = inferring({"b": Tensor("b", FLOAT, (2,))})
    outer.put(op("one", "x", "b"))
    inner = ModelGraph(parent=outer, infer=lambda graph: {"i": graph.parent.tensor("b")})
    inner.put(op("inside", "b", "i"))
    inner.complete_shapes()
    assert outer_runs == [1]
    assert inner.tensor("i").shape == (2,)
    assert inner.tensor("b").shape == (2,)
    inner.put(op("more", "i", "j"))
    inner.complete_shapes()
    assert outer_runs == [1]


def test_a_params_shape_is_its_own():
    graph = small()
    assert graph.tensor("w") == Tensor("w", np.dtype(np.float64), (3,))


# -- changing ----------------------------------------------------------------------------------------


def test_a_copy_is_independent():
    graph = small()
    inner = ModelGraph(parent=graph)
    inner.put(op("inside", "b", "i"))
    graph.put(op("if", "-", "f", "If", subgraphs={"then": inner}, captures=("b",)))
    copy = graph.copy()
    copy.remove("four")
    copy.params["new"] = Param.of("new", np.ones(1))
    body = copy.op("if").subgraphs["then"]
    body.remove("inside")
    copy.outputs = ["y"]
    assert body.parent is copy
    assert "four" in graph
    assert "new" not in graph.params
    assert "inside" in inner
    assert graph.outputs == ("y", "z")
    assert graph.consumers("b") == [Use("three", 0), Use("four", 0), Use("if", None)]


def test_put_replaces_an_operator_in_its_place():
    graph = small()
    graph.put(op("two", "xa", "b", "Mul"))
    assert [made.name for made in graph.ops()] == ["one", "two", "three", "four"]
    assert graph.consumers("x") == [Use("one", 0), Use("two", 0)]
    assert graph.consumers("a") == [Use("two", 1)]


def test_put_stands_beside_the_operator_it_came_from():
    graph = small()
    graph.put(op("after", "-", "p"), after="one")
    graph.put(op("further", "-", "q"), after="after")
    graph.put(op("last", "-", "r"))
    assert [made.name for made in graph.ops()] == ["one", "after", "further", "two", "three", "four", "last"]
    assert graph.position("one") < graph.position("after") < graph.position("two")


@pytest.mark.parametrize("asked_before", [True, False])
def test_places_follow_every_change_whenever_they_are_asked_for(asked_before):
    graph = small()
    if asked_before:
        assert graph.position("one") < graph.position("four")
    graph.remove("two")
    graph.put(op("two", "a", "b"))
    graph.put(op("after", "-", "p"), after="one")
    copy = graph.copy()
    copy.put(op("other", "-", "q"), after="three")
    copy.remove("one")
    for each, expected in ((graph, "one after three four two"), (copy, "after three other four two")):
        assert " ".join(made.name for made in each.ops()) == expected
        assert sorted(expected.split(), key=each.position) == expected.split()


def test_a_tensor_has_one_producer():
    with pytest.raises(ValueError, match="two producers: two and five"):
        small().put(op("five", "x", "b"))


def test_removing_frees_what_it_made_and_read():
    graph = small()
    graph.remove("two")
    assert graph.producer("b") is None
    assert graph.use_count("a") == 0
    graph.put(op("again", "a", "b"))
    assert graph.producer("b").name == "again"


def test_rewiring_changes_one_slot():
    graph = small()
    graph.rewire(Use("four", 0), "a")
    assert graph.op("four").inputs == ("a",)
    assert graph.consumers("b") == [Use("three", 0)]
    assert graph.op("four").record is None


def test_fresh_names_are_nobodys():
    graph = small()
    inner = ModelGraph(parent=graph)
    inner.params["deep"] = Param.of("deep", np.ones(1))
    graph.put(op("if", "-", "f", "If", subgraphs={"then": inner}, label="shown"))
    assert graph.fresh("b") == "b_2"
    assert graph.fresh("b") == "b_3"
    assert inner.fresh("b") == "b_4"
    assert graph.fresh("b_3") == "b_3_2"
    assert [graph.fresh(name) for name in ("deep", "shown", "if", "w", "x")] == [
        "deep_2", "shown_2", "if_2", "w_2", "x_2",
    ]  # fmt: skip
    assert graph.fresh("new") == "new"


def test_walk_goes_outside_in():
    graph = small()
    inner, deep = ModelGraph(parent=graph), ModelGraph()
    inner.put(op("if", "-", "g", "If", subgraphs={"then": deep}))
    graph.put(op("loop", "-", "f", "Loop", subgraphs={"body": inner}))
    assert list(walk(graph)) == [graph, inner, deep]
