"""Gemm, MatMul and Einsum take an affine in, from behind and from ahead."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from helpers import Net, assert_gone, assert_stays, fold, fold_unrun

from bnfold.affine import Affine
from bnfold.formats import load
from bnfold.graph import ModelGraph, Op
from bnfold.operators import Node, facts_of, linear_bias
from bnfold.refusal import Refusal

M, K, N = 3, 4, 5

#: Every shape a Gemm's bias may have; None is left out.
BIASES = {
    "absent": None,
    "scalar": (),
    "[1]": (1,),
    "[1,1]": (1, 1),
    "[N]": (N,),
    "[1,N]": (1, N),
    "[M,1]": (M, 1),
    "[M,N]": (M, N),
}
GEMMS = list(itertools.product((0, 1), (0, 1), (1.0, -0.5), (1.0, 0.25, 0.0)))


def gemm(net: Net, x: str, bias, *, trans_a=0, trans_b=0, alpha=1.0, beta=1.0) -> str:
    weight = net.draw(N, K) if trans_b else net.draw(K, N)
    operands = [weight] if bias is None else [weight, net.draw(*bias)]
    return net.op("Gemm", x, *operands, transA=trans_a, transB=trans_b, alpha=alpha, beta=beta, name="gemm")


@pytest.mark.parametrize("bias", BIASES.values(), ids=BIASES)
@pytest.mark.parametrize(("trans_a", "trans_b", "alpha", "beta"), GEMMS)
def test_gemm_takes_affines_from_both_sides(trans_a, trans_b, alpha, beta, bias):
    net = Net()
    x = net.op("Relu", net.input(*((K, M) if trans_a else (M, K))))
    scale = net.draw(K, 1) if trans_a else net.draw(K)
    x = net.op("Sub", net.op("Mul", x, scale), net.draw(*scale.shape))
    y = gemm(net, x, bias, trans_a=trans_a, trans_b=trans_b, alpha=alpha, beta=beta)
    folded = fold(net.build(net.bn(y, N)))
    assert folded.count() == 2


@pytest.mark.parametrize("bias", BIASES.values(), ids=BIASES)
def test_gemm_by_a_constant_left_operand_takes_an_affine_along_its_rows(bias):
    net = Net()
    operands = [] if bias is None else [net.draw(*bias)]
    y = net.op("Gemm", net.draw(M, K), net.input(K, N), *operands, beta=0.5)
    assert fold(net.build(net.op("Add", net.op("Mul", y, net.draw(M, 1)), net.draw(M, 1)))).count() == 1


def test_gemm_by_a_constant_left_operand_refuses_an_affine_along_its_columns():
    net = Net()
    y = net.op("Gemm", net.draw(N, K), net.input(K, N), name="gemm")
    assert_stays(fold(net.build(net.bn(y, N))), "other-axis", "gemm (Gemm)", "axis 0")


def test_gemm_refuses_an_affine_along_its_rows():
    net = Net()
    y = gemm(net, net.input(N, K), None)
    assert_stays(fold(net.build(net.op("Mul", y, net.draw(N, 1)))), "other-axis", "gemm (Gemm)")


def test_a_pure_scale_gives_gemm_no_bias():
    net = Net()
    folded = fold(net.build(net.op("Mul", gemm(net, net.input(M, K), None), net.draw(N))))
    assert len(folded.node("Gemm").input) == 2


def test_gemm_with_beta_zero_ignores_a_bias_computed_at_run_time():
    net = Net()
    y = net.op("Gemm", net.input(M, K), net.draw(K, N), net.op("Tanh", net.input(N)), beta=0.0)
    assert fold(net.build(net.bn(y, N))).count("BatchNormalization") == 0


def test_gemm_refuses_with_a_bias_computed_at_run_time():
    net = Net()
    y = net.op("Gemm", net.input(M, K), net.draw(K, N), net.op("Tanh", net.input(N)), name="gemm")
    assert_stays(fold(net.build(net.bn(y, N))), "nonlinear", "(Tanh)")


@pytest.mark.parametrize("kind", ["bias", "scale"])
def test_a_scale_that_precedes_leaves_the_bias_alone(kind):
    net = Net()
    x = net.op("Mul", net.op("Relu", net.input(M, K)), net.draw(K))
    bias = net.op("Tanh", net.input(N)) if kind == "bias" else net.const(net.draw(N), "bias")
    folded = fold(net.build(net.op("Gemm", x, net.draw(K, N), bias)))
    assert folded.count("Mul") == 0
    assert folded.node("Gemm").input[2] == bias


def test_gemm_of_two_run_time_operands_refuses():
    net = Net()
    y = net.op("Gemm", net.input(M, K), net.input(K, N), name="gemm")
    assert_stays(fold(net.build(net.bn(y, N))), "dynamic-weights", "gemm (Gemm)")


@pytest.mark.parametrize("follows", [True, False])
@pytest.mark.parametrize(("trans_a", "trans_b"), itertools.product((0, 1), (0, 1)))
def test_gemm_by_a_constant_left_operand_takes_affines_from_both_sides(trans_a, trans_b, follows):
    net = Net()
    x = net.op("Relu", net.input(*((N, K) if trans_b else (K, N))))
    rows = (K,) if trans_b else (K, 1)
    x = net.op("Add", net.op("Mul", x, net.draw(*rows)), net.draw(*rows))
    weight = net.draw(K, M) if trans_a else net.draw(M, K)
    y = net.op("Gemm", weight, x, net.draw(N), transA=trans_a, transB=trans_b, alpha=-0.5)
    if follows:
        y = net.op("Add", net.op("Mul", y, net.draw(M, 1)), net.draw(M, 1))
    assert fold(net.build(y)).count() == 2


def test_gemm_transposes_nothing_by_default():
    net = Net()
    x = along_last(net, net.op("Relu", net.input(K, K)), K)
    assert fold(net.build(net.op("Gemm", x, net.draw(K, K), net.draw(K)))).count() == 2
    rows = along_rows(net := Net(), net.op("Relu", net.input(K, K)), K)
    assert fold(net.build(net.op("Gemm", net.draw(K, K), rows, net.draw(K)))).count() == 2


@pytest.mark.parametrize(("opset", "left"), [(6, 1), (7, 0)])
def test_gemm_before_opset_7_keeps_its_bias(opset, left):
    net = Net(opset=opset, ir_version=3)
    x = net.input(M, K)
    operands = [net.const(net.draw(K, N)), net.const(net.draw(N))]
    constants = [net.const(net.positive(N)) for _ in range(4)]
    # Constants had to be inputs of the graph, too.
    old = {} if opset == 7 else {"broadcast": 1}
    y = net.op("Gemm", x, *operands, name="gemm", **old)
    y = net.op("BatchNormalization", y, *constants, **({} if opset == 7 else {"is_test": 1}))
    for name, shape in zip([*operands, *constants], [(K, N), *[(N,)] * 5], strict=True):
        net.input(*shape, name=name)
    folded = fold_unrun(net.build(y))
    assert folded.count("BatchNormalization") == left
    assert not left or "old-opset" in folded.codes


@pytest.mark.parametrize("left", [False, True])
def test_gemm_refuses_a_bias_that_does_not_fit(left):
    """As it may stand behind an operator whose types are not known."""
    net = Net()
    operands = [net.draw(N, K), net.input(K, N)] if left else [net.input(N, K), net.draw(K, N)]
    net.output(net.op("Gemm", *operands, net.draw(2, 2), name="gemm"), shape=(N, N))
    opsets = [onnx.helper.make_opsetid("", 17)]
    graph = load(onnx.helper.make_model(net.graph(), opset_imports=opsets, ir_version=8)).graph
    affine = Affine.of(np.arange(1.0, N + 1), np.ones(N), 0 if left else 1)
    assert ask(graph, graph.op("gemm"), affine).code == "bias-shape"


@pytest.mark.parametrize("left", [False, True])
def test_gemm_refuses_a_vector(left):
    net = Net()
    operands = [net.draw(N), net.input(K, N)] if left else [net.input(N, K), net.draw(N)]
    net.output(net.op("Gemm", *operands, name="gemm"), shape=(N, N))
    opsets = [onnx.helper.make_opsetid("", 17)]
    graph = load(onnx.helper.make_model(net.graph(), opset_imports=opsets, ir_version=8)).graph
    code = ask(graph, graph.op("gemm"), Affine.of(2.0, 0.0, None)).code
    assert code == ("dynamic-weights" if left else "vector-weight")


def test_what_gemm_tells_of_itself():
    net = Net()
    biased = net.op("Gemm", net.input(M, K), net.draw(K, N), net.draw(N), name="biased")
    bare = net.op("Gemm", net.draw(M, K), net.input(K, N), name="bare")
    unknown = net.op("Gemm", net.input(M, K), net.input(K, N), name="unknown")
    graph = load(net.build(biased, bare, unknown)).graph
    bias = linear_bias(graph, graph.op("biased"))
    assert bias is not None
    assert bias.shape == (N,)
    assert linear_bias(graph, graph.op("bare")) is None


@pytest.mark.parametrize(("constant", "left"), [((N,), 0), ((M, 1), 1)], ids=["columns", "rows"])
def test_gemm_makes_a_matrix_of_an_input_of_unknown_rank(constant, left):
    net = Net()
    x = net.unknown_rank(net.input(2, 6), (M, K))
    y = net.op("Mul", net.op("Gemm", x, net.draw(K, N)), net.draw(*constant))
    folded = fold(net.build(net.op("Reshape", y, np.array([-1]))), feeds=net.feeds)
    assert folded.count("Mul") == left


def test_gemm_of_unknown_operands_makes_a_matrix():
    net = Net()
    x, weight = net.unknown_rank(net.input(2, 6), (M, K)), net.op("Tanh", net.input(K, N))
    y = net.op("Relu", net.op("Gemm", x, weight))
    y = net.op("Add", net.op("Mul", y, np.float32([[2.0]])), np.float32([[0.5]]))
    folded = fold(net.build(net.op("Reshape", y, np.array([-1]))), feeds=net.feeds)
    assert folded.count("Mul", "Add") == 2


# -- MatMul ------------------------------------------------------------------------------------------


def along_last(net: Net, x: str, size: int) -> str:
    return net.op("Add", net.op("Mul", x, net.draw(size)), net.draw(size))


def along_rows(net: Net, x: str, size: int) -> str:
    return net.op("Add", net.op("Mul", x, net.draw(size, 1)), net.draw(size, 1))


@pytest.mark.parametrize("shape", [(M, K), ("N", K), (2, M, K), ("B", "T", K), (2, 3, 2, K), (2, 1, 3, 2, K)])
def test_matmul_by_a_constant_takes_an_affine_along_the_last_axis(shape):
    net = Net()
    y = along_last(net, net.op("MatMul", net.input(*shape), net.draw(K, N)), N)
    folded = fold(net.build(y))
    assert folded.count() == (1 if len(shape) == 2 else 2)
    assert folded.count("Mul") == 0


def test_matmul_of_a_vector_takes_an_affine():
    net = Net()
    assert fold(net.build(along_last(net, net.op("MatMul", net.input(K), net.draw(K, N)), N))).count("Mul") == 0


def test_matmul_gives_a_shift_to_the_bias_that_follows():
    net = Net()
    y = net.op("Add", net.op("MatMul", net.input("B", "T", K), net.draw(K, N)), net.draw(N))
    folded = fold(net.build(along_last(net, y, N)))
    assert folded.count() == 2
    assert folded.count("Add") == 1


def test_the_bias_of_a_matmul_is_nothing_to_fold():
    net = Net()
    y = net.op("Add", net.op("MatMul", net.input(M, K), net.draw(K, N)), net.draw(N))
    folded = fold(net.build(net.op("Relu", y)))
    assert not folded.plan.steps
    assert not folded.plan.remaining


def test_a_batchnorm_that_only_shifts_goes_with_a_matmul_too():
    net = Net()
    y = net.op("MatMul", net.input(M, K), net.draw(K, N))
    assert fold(net.build(net.op("Relu", net.exact_bn(y, np.ones(N), net.draw(N))))).count("BatchNormalization") == 0


@pytest.mark.parametrize("shape", [(2, K, N), (1, K, N), (3, 1, K, N)])
def test_matmul_by_a_batch_of_matrices_takes_an_affine_that_follows(shape):
    net = Net()
    y = net.op("MatMul", net.input(2, M, K), net.draw(*shape))
    assert fold(net.build(along_last(net, y, N))).count("Mul") == 0


def test_matmul_by_a_constant_left_operand_takes_an_affine_along_its_rows():
    net = Net()
    y = net.op("MatMul", net.draw(M, K), net.input(2, 3, K, N))
    y = net.op("Add", net.op("Mul", y, net.draw(M, 1)), net.draw(M, 1))
    assert fold(net.build(y)).count("Mul") == 0


def test_matmul_by_a_constant_left_operand_becomes_a_gemm_with_a_column_bias():
    net = Net()
    y = net.op("MatMul", net.draw(M, K), net.input(K, N))
    y = net.op("Add", net.op("Mul", y, net.draw(M, 1)), net.draw(M, 1))
    assert fold(net.build(y)).count() == 1


@pytest.mark.parametrize("batch", [(), (2,)])
def test_matmul_of_a_vector_takes_an_affine_that_precedes(batch):
    """A batch of matrices makes a matrix of a vector: a scale goes in, a shift does not."""
    net = Net()
    x = net.op("Relu", net.input(K))
    x = net.op("Mul", x, net.draw(K)) if batch else along_last(net, x, K)
    folded = fold(net.build(along_last(net, net.op("MatMul", x, net.draw(*batch, K, N)), N)))
    assert folded.count("Mul") == 0
    assert folded.count("Add") == 1


@pytest.mark.parametrize("slot", [0, 1])
def test_matmul_with_a_vector_refuses(slot):
    """A vector on either side of a matrix of constants: the one that is left has no axis for the rows."""
    net = Net()
    operands = [net.draw(K), net.input(2, K, N)] if slot == 0 else [net.draw(N, K), net.input(K)]
    y = net.op("Mul", net.op("MatMul", *operands, name="dot"), net.draw(N))
    assert_stays(fold(net.build(y)), "unknown-rank" if slot == 0 else "vector-weight", "dot (MatMul)")


@pytest.mark.parametrize(("opset", "kinds"), [(6, ["MatMul", "BatchNormalization"]), (7, ["Gemm"])])
def test_matmul_becomes_a_gemm_from_opset_7_on(opset, kinds):
    net = Net(opset=opset, ir_version=3)
    constants = [net.const(net.draw(K, N)), *(net.const(net.positive(N)) for _ in range(4))]
    y = net.op("MatMul", net.input(M, K), constants[0])
    y = net.op("BatchNormalization", y, *constants[1:], **({} if opset == 7 else {"is_test": 1}))
    for name, shape in zip(constants, [(K, N), *[(N,)] * 4], strict=True):
        net.input(*shape, name=name)
    folded = fold_unrun(net.build(y))
    assert [node.op_type for node in folded.after.graph.node] == kinds


@pytest.mark.parametrize("scale_only", [True, False])
def test_matmul_of_integers_behind_a_scale_stays_a_matmul(scale_only):
    net = Net()
    weight = net.op("DequantizeLinear", net.rng.integers(-9, 9, (K, N)).astype(np.int8), np.float32(0.1))
    y = net.op("Mul", net.op("MatMul", net.input(M, K), weight), net.positive(N))
    folded = fold(net.build(y if scale_only else net.op("Add", y, net.draw(N))))
    assert folded.count("Gemm", "Mul") == 0
    assert folded.count("Add") == (0 if scale_only else 1)


@pytest.mark.parametrize("sums", ["equal", "different"])
def test_a_uniform_affine_before_a_matmul_of_unknown_rank(sums):
    """One value can be added to a tensor of unknown rank, a vector cannot: the shift stays in front then."""
    net = Net()
    x = net.op("Relu", net.unknown_rank(net.input(2, 6, K), (3, 4, K)))
    x = net.op("Add", net.op("Mul", x, np.float32(2.0)), np.float32(0.5))
    weight = net.draw(K, N)
    if sums == "equal":
        weight = np.tile(np.arange(4, dtype=np.float32).reshape(K, 1), (1, N))
    folded = fold(net.build(net.op("Reshape", net.op("MatMul", x, weight), np.array([-1]))), feeds=net.feeds)
    assert (folded.count("Mul"), folded.count("Add")) == (0, 1)
    assert (folded.node("MatMul").input[0] == folded.node("Add").output[0]) == (sums == "different")
    assert sums == "equal" or "unknown-rank" in folded.codes


def test_matmul_by_a_vector_refuses():
    net = Net()
    y = net.op("MatMul", net.input(N, N, K), net.draw(K), name="dot")
    assert_stays(fold(net.build(net.op("Mul", y, net.draw(N)))), "vector-weight", "dot (MatMul)")


def test_a_batchnorm_over_the_sequence_stays_although_the_sizes_agree():
    """ONNX normalises axis 1, which is not the features' axis of a 3-D MatMul."""
    net = Net()
    y = net.op("MatMul", net.input("B", N, K), net.draw(K, N), name="dense")
    assert_stays(fold(net.build(net.bn(y, N))), "other-axis", "dense (MatMul)", "axis 2")


@pytest.mark.parametrize("uniform", [0.5, 3.0])
def test_matmul_of_unknown_rank_takes_a_uniform_affine(uniform):
    net = Net()
    x = net.unknown_rank(net.input(2, 6, K), (3, 4, K))
    y = net.op("Mul", net.op("MatMul", x, net.draw(K, N)), np.float32(uniform))
    folded = fold(net.build(net.op("Reshape", y, np.array([-1]))), feeds=net.feeds)
    assert folded.count("Mul") == 0


def test_matmul_of_unknown_rank_keeps_a_uniform_shift_outside():
    net = Net()
    x = net.unknown_rank(net.input(2, 6, K), (3, 4, K))
    y = net.op("MatMul", x, net.draw(K, N))
    y = net.op("Add", net.op("Mul", y, np.float32(2.0)), np.float32(1.5))
    folded = fold(net.build(net.op("Reshape", y, np.array([-1]))), feeds=net.feeds)
    assert folded.count("Mul", "Add") == 1


def test_matmul_of_unknown_rank_refuses_a_vector():
    net = Net()
    x = net.unknown_rank(net.input(2, 6, K), (3, 4, K))
    y = net.op("Mul", net.op("MatMul", x, net.draw(K, N)), net.draw(N))
    folded = fold(net.build(net.op("Reshape", y, np.array([-1]))), feeds=net.feeds)
    assert folded.count("Mul") == 1


@pytest.mark.parametrize("shape", [(M, K), ("B", "T", K), (2, 3, 2, K)])
@pytest.mark.parametrize("bias", [True, False])
def test_matmul_takes_an_affine_that_precedes(shape, bias):
    net = Net()
    x = along_last(net, net.op("Relu", net.input(*shape)), K)
    y = net.op("MatMul", x, net.draw(K, N))
    if bias:
        y = net.op("Add", y, net.draw(N))
    folded = fold(net.build(net.op("Relu", y)))
    assert folded.count("Mul") == 0
    assert folded.count("Add") == (0 if len(shape) == 2 else 1)


def test_matmul_by_a_constant_left_operand_takes_an_affine_that_precedes():
    net = Net()
    x = net.op("Relu", net.input(2, K, N))
    x = net.op("Add", net.op("Mul", x, net.draw(K, 1)), net.draw(K, 1))
    assert fold(net.build(net.op("MatMul", net.draw(M, K), x))).count("Mul") == 0


def test_a_batch_of_matrices_refuses_a_shift_that_precedes():
    net = Net()
    x = net.op("Add", net.op("Relu", net.input(2, M, K)), net.draw(K))
    folded = fold(net.build(net.op("MatMul", x, net.draw(2, K, N), name="heads")))
    assert_stays(folded, "batched-weight", "heads (MatMul)")


def test_a_batch_of_matrices_takes_a_scale_that_precedes():
    net = Net()
    x = net.op("Mul", net.op("Relu", net.input(2, M, K)), net.draw(K))
    assert fold(net.build(net.op("MatMul", x, net.draw(2, K, N)))).count("Mul") == 0


def test_a_batch_of_one_matrix_takes_a_shift_that_precedes():
    net = Net()
    x = along_last(net, net.op("Relu", net.input(2, M, K)), K)
    folded = fold(net.build(net.op("Add", net.op("MatMul", x, net.draw(1, K, N)), net.draw(N))))
    assert folded.count() == 3


def test_an_affine_along_the_rows_passes_a_matmul_as_a_scale():
    net = Net()
    first = net.op("MatMul", net.draw(M, M), net.input(2, M, K))
    y = net.op("Mul", net.op("MatMul", first, net.draw(K, N)), net.draw(M, 1))
    folded = fold(net.build(y))
    assert folded.count() == 2


@pytest.mark.parametrize("rows", [2, N])
def test_a_bias_lies_along_the_columns_though_nobody_tells_the_rank_of_the_product(rows):
    """The Gemm in front tells its own, inference knows neither in this opset."""
    net = Net(opset=9)
    y = net.op("Relu", net.op("Gemm", net.unknown_rank(net.input(1, rows * K), (rows, K)), net.draw(K, K), net.draw(K)))
    y = net.op("Transpose", net.op("MatMul", net.bn(y, K), net.draw(K, N)), perm=[1, 0])
    net.output(y, shape=["N", rows])
    folded = fold(net.build(), feeds=net.feeds)
    assert folded.count("BatchNormalization", "Add") == 0
    assert folded.count("Gemm") == 2


# -- two tensors computed at run time ----------------------------------------------------------------


RANKS = {"equal": (("B",), ("B",)), "left alone": (("B",), ()), "right alone": ((), ("B",)), "none": ((), ())}


@pytest.mark.parametrize("ranks", RANKS.values(), ids=RANKS)
@pytest.mark.parametrize("constant", [(), (M,), (M, 1)], ids=["all", "columns", "rows"])
def test_a_scale_of_a_product_goes_to_the_factor_that_has_the_axis(constant, ranks):
    net = Net()
    left = net.op("MatMul", net.draw(M, M), net.input(*ranks[0], M, K))
    right = net.op("MatMul", net.input(*ranks[1], K, N), net.draw(N, M))
    y = net.op("Mul", net.op("MatMul", left, right), net.positive(*constant))
    assert fold(net.build(net.op("Softmax", y))).count("Mul") == 0


def test_a_shift_of_a_product_stays():
    net = Net()
    left, right = net.op("Relu", net.input("B", M, K)), net.op("Relu", net.input("B", K, N))
    y = net.op("Add", net.op("MatMul", left, right, name="scores"), net.draw(N))
    assert_stays(fold(net.build(net.op("Softmax", y))), "product", "scores (MatMul)")


def test_a_scale_on_a_batch_axis_of_a_product_goes_to_a_factor_that_has_it_in_full():
    """Here to where no weights are."""
    net = Net()
    left, right = net.op("Relu", net.input(2, M, K)), net.op("Relu", net.input(1, K, N))
    y = net.op("Mul", net.op("MatMul", left, right, name="scores"), net.positive(2, 1, 1))
    assert_stays(fold(net.build(net.op("Softmax", y))), "model-input", "x_1 is an input")


@pytest.mark.parametrize("ranks", RANKS.values(), ids=RANKS)
@pytest.mark.parametrize("slot", [0, 1])
def test_a_scale_sinks_through_a_product(slot, ranks):
    net = Net()
    factors = [net.op("Tanh", net.input(*ranks[0], M, K)), net.op("Tanh", net.input(*ranks[1], K, N))]
    factors[slot] = net.op("Mul", factors[slot], net.draw(M, 1) if slot == 0 else net.draw(N))
    y = net.op("MatMul", *factors)
    weight = net.op("MatMul", net.draw(2, M), y) if slot == 0 else net.op("MatMul", y, net.draw(N, 2))
    assert fold(net.build(weight)).count("Mul") == 0


@pytest.mark.parametrize("slot", [0, 1])
def test_a_scale_along_the_contracted_axis_of_a_product_stays(slot):
    net = Net()
    factors = [net.op("Tanh", net.input("B", M, K)), net.op("Tanh", net.input("B", K, N))]
    factors[slot] = net.op("Mul", factors[slot], net.draw(K) if slot == 0 else net.draw(K, 1))
    folded = fold(net.build(net.op("MatMul", *factors, name="scores")))
    assert_stays(folded, "contracted-axis", "scores (MatMul)")


@pytest.mark.parametrize("kind", ["vector first", "vector last", "unknown first", "unknown last"])
@pytest.mark.parametrize("follows", [True, False])
def test_a_scale_of_a_product_with_a_vector_or_an_unknown_operand_stays(kind, follows):
    net = Net()
    odd = net.input(K) if "vector" in kind else net.unknown_rank(net.input(1, 2 * K * K), (2, K, K))
    factors = [net.op("Relu", odd), net.op("Relu", net.input(2, K, K))]
    at = 0 if "first" in kind else 1
    factors = factors if at == 0 else factors[::-1]
    if follows:
        y = net.op("Mul", net.op("MatMul", *factors, name="scores"), np.float32(3.0))
    else:
        factors[1 - at] = net.op("Mul", factors[1 - at], np.float32(3.0))
        y = net.op("MatMul", *factors, name="scores")
    folded = fold(net.build(net.op("Reshape", net.op("Tanh", y), np.array([-1]))), feeds=net.feeds)
    assert_stays(folded, "unknown-rank", "scores (MatMul)", "a single vector or of unknown rank")


def test_a_shift_of_a_factor_stays():
    net = Net()
    left = net.op("Add", net.op("Tanh", net.input("B", M, K)), np.float32(0.5))
    y = net.op("MatMul", left, net.op("Relu", net.input("B", K, N)), name="scores")
    assert_stays(fold(net.build(net.op("Softmax", y))), "product", "scores (MatMul)")


SCALES = {
    "a row and a column": ((M, 1), (N,), False),
    "a row and all": ((M, 1), (), True),
    "all and a column": ((), (N,), True),
    "all and all": ((), (), True),
}


@pytest.mark.parametrize(("left", "right", "sinks"), SCALES.values(), ids=SCALES)
def test_scales_of_both_factors_meet_behind_a_product(left, right, sinks):
    net = Net()
    factors = [net.op("Tanh", net.input("B", M, K)), net.op("Tanh", net.input("B", K, N))]
    scaled = [net.op("Mul", x, net.positive(*shape)) for x, shape in zip(factors, (left, right), strict=True)]
    folded = fold(net.build(net.op("Sigmoid", net.op("MatMul", *scaled, name="scores"))))
    assert folded.count("Mul") == (1 if sinks else 2)


# -- Einsum ------------------------------------------------------------------------------------------

FOLLOWED = {
    "bik,kn->bin": ((2, 3, K), (K, N), (N,)),
    "kn,bik->bin": ((K, N), (2, 3, K), (N,)),
    "bik,kn->bni": ((2, 3, K), (K, N), (N, 1)),
    "bihd,hdn->bihn": ((2, 3, M, K), (M, K, N), (N,)),
    "bihd,hdn->bihn over heads": ((2, 3, M, K), (M, K, N), (M, 1)),
    "bk,k->bk": ((2, K), (K,), (K,)),
    "...k,kn->...n": ((2, 3, K), (K, N), (N,)),
    "...ik,...kn->...in": ((2, 3, 4, K), (1, 3, K, N), (N,)),
    "...ik,...kn->...in over a shared axis": ((2, 3, 4, K), (1, 3, K, N), (3, 1, 1)),
    "bk,kn": ((2, K), (K, N), (N,)),
    "...k,kn": ((2, 3, K), (K, N), (N,)),
    "bz,za": ((2, K), (K, N), (N, 1)),
}


@pytest.mark.parametrize("equation", FOLLOWED)
def test_einsum_takes_a_scale_that_follows(equation):
    first, second, constant = FOLLOWED[equation]
    net = Net()
    equation = equation.split()[0]
    dynamic_first = not equation.startswith("k")
    operands = [net.input(*first), net.draw(*second)] if dynamic_first else [net.draw(*first), net.input(*second)]
    y = net.op("Einsum", *operands, equation=equation)
    y = net.op("Sub", net.op("Mul", y, net.draw(*constant)), net.draw(*constant))
    net.output(y, shape=np.einsum(equation, np.empty(first), np.empty(second)).shape)
    folded = fold(net.build())
    assert folded.count("Mul") == 0
    assert folded.count() == 2


def test_einsum_refuses_an_affine_along_a_label_its_constant_does_not_have():
    net = Net()
    y = net.op("Einsum", net.input(2, M, K), net.draw(K, N), equation="bik,kn->bin", name="mix")
    assert_stays(fold(net.build(net.op("Mul", y, net.draw(M, 1)))), "other-axis", "mix (Einsum)")


@pytest.mark.parametrize("equation", ["bii,in->bn", "bk,kn,n->bn"])
def test_einsum_refuses_an_equation_it_does_not_understand(equation):
    net = Net()
    x = net.input(*((2, K, K) if "ii" in equation else (2, K)))
    operands = [net.draw(K, N), net.draw(N)][: equation.count(",")]
    y = net.op("Einsum", x, *operands, equation=equation, name="mix")
    folded = fold(net.build(net.op("Mul", net.op("Identity", y), net.draw(N))))
    assert_stays(folded, "einsum", "mix (Einsum)", equation)


def test_einsum_with_an_ellipsis_for_a_tensor_of_unknown_rank_refuses():
    net = Net()
    x = net.unknown_rank(net.input(2, 3, K), (2, 3, K))
    y = net.op("Einsum", x, net.draw(K, N), equation="...k,kn->...n", name="mix")
    net.output(net.op("Mul", y, np.float32(3)), shape=["a", "b", N])
    assert_stays(fold(net.build(), feeds=net.feeds), "unknown-rank", "mix (Einsum)")


def test_einsum_takes_a_shift_before_an_ellipsis():
    net = Net()
    x = net.op("Mul", net.op("Tanh", net.input(2, 3, K)), net.draw(K))
    x = net.op("Add", x, net.draw(K))
    folded = fold(net.build(net.op("Einsum", x, net.draw(K, N), equation="...k,kn->...n")))
    assert folded.count("Mul") == 0
    assert folded.count() == 3


@pytest.mark.parametrize(
    ("equation", "data", "weight", "along"),
    [
        ("bik,kn->bin", (2, 3, K), (K, N), (K,)),
        ("bhk,hkn->bn", (2, M, K), (M, K, N), (K,)),
        ("bhk,hkn->bn", (2, M, K), (M, K, N), (M, 1)),
        ("bk,kn->nb", (2, K), (K, N), (K,)),
        ("bk,nk->bn", (2, K), (N, K), (K,)),
        ("bk,kn->bn", (2, K), (K, N), ()),
        ("bk,knm->bn", (2, K), (K, N, M), (K,)),
        ("bk,mkn->bn", (2, K), (M, K, N), (K,)),
    ],
)
def test_einsum_takes_an_affine_that_precedes(equation, data, weight, along):
    net = Net()
    x = net.op("Tanh", net.input(*data))
    x = net.op("Add", net.op("Mul", x, net.draw(*along)), net.draw(*along))
    folded = fold(net.build(net.op("Einsum", x, net.draw(*weight), equation=equation)))
    assert folded.count("Mul") == 0
    assert folded.count() == 3


@pytest.mark.parametrize(
    ("equation", "data", "weight", "along"),
    [
        ("bhk,hkn->bhn", (2, M, K), (M, K, N), (K,)),
        ("bhk,kn->bn", (2, M, K), (K, N), (K,)),
        ("ab,bc->a", (3, K), (K, N), (K,)),
    ],
)
def test_einsum_refuses_a_shift_that_would_not_be_one_value_per_channel(equation, data, weight, along):
    net = Net()
    x = net.op("Tanh", net.input(*data))
    x = net.op("Add", net.op("Mul", x, net.draw(*along)), net.draw(*along))
    folded = fold(net.build(net.op("Einsum", x, net.draw(*weight), equation=equation, name="mix")))
    assert folded.count("Einsum") == 1
    assert "uneven-taps" in folded.codes, folded.sentences


@pytest.mark.parametrize("size", [1, K])
def test_einsum_takes_a_shift_where_its_constant_is_as_long_as_the_data(size):
    """One row of weights for all of the data's entries counts as often as there are such."""
    net = Net()
    x = net.op("Add", net.op("Mul", net.op("Tanh", net.input(2, K)), np.float32(3.0)), np.float32(0.5))
    folded = fold(net.build(net.op("Einsum", x, net.draw(size, N), equation="bk,kn->bn", name="mix")))
    assert (folded.count("Mul"), folded.count("Add")) == (0, 1)
    assert (folded.node("Einsum").input[0] == folded.node("Add").output[0]) == (size == 1)
    assert size == K or "uneven-taps" in folded.codes


@pytest.mark.parametrize("side", ["before", "behind"])
def test_einsum_takes_a_uniform_affine(side):
    net = Net()
    x = net.op("Tanh", net.input(2, 3, K))
    x = net.op("Mul", x, np.float32(3.0)) if side == "before" else x
    y = net.op("Einsum", x, net.draw(K, N), equation="bik,kn->bin")
    y = net.op("Mul", y, np.float32(3.0)) if side == "behind" else y
    assert fold(net.build(net.op("Tanh", y))).count("Mul") == 0


@pytest.mark.parametrize("side", ["before", "behind"])
def test_einsum_takes_a_shift_without_touching_its_weights(side):
    net = Net()
    x = net.op("Tanh", net.input(2, K))
    x = net.op("Add", x, net.draw(K)) if side == "before" else x
    y = net.op("Einsum", x, net.const(net.draw(K, N), "weight"), equation="bk,kn->bn")
    y = net.op("Add", y, net.draw(N)) if side == "before" else net.op("Sub", net.op("Add", y, net.draw(N)), net.draw(N))
    folded = fold(net.build(net.op("Tanh", y)))
    assert folded.count("Add", "Sub") == 1
    assert folded.node("Einsum").input[1] == "weight"


def ask(graph: ModelGraph, op: Op, affine: Affine, slot: int | None = None) -> Refusal:
    """Why an operator does not take an affine in, from behind or in an input slot."""
    node, facts = Node(graph, op), facts_of(op)
    answer = facts.absorb_output(node, affine) if slot is None else facts.absorb_input(node, {slot: affine})
    assert isinstance(answer, Refusal)
    return answer


@pytest.mark.parametrize(
    ("axis", "size", "slot", "code"),
    [
        (1, N, None, "size-mismatch"),
        (0, 2, None, "other-axis"),
        (2, N, None, "other-axis"),
        (1, N, 0, "size-mismatch"),
        (0, 2, 0, "other-axis"),
        (2, N, 0, "other-axis"),
        (0, 1, 1, "dynamic-weights"),
    ],
)
def test_what_einsum_says_of_affines_that_do_not_fit(axis, size, slot, code):
    net = Net()
    y = net.op("Einsum", net.input(2, K), net.draw(1, 1), equation="bk,kn->bn", name="mix")
    graph = load(net.build(y)).graph
    affine = Affine.of(np.arange(1.0, size + 1), np.zeros(size), axis)
    assert ask(graph, graph.op("mix"), affine, slot).code == code


@pytest.mark.parametrize(("shape", "dtype"), [((K, N), np.int32), ((K,), np.float32), ((K, N), np.float32)])
def test_only_a_matrix_of_floats_is_what_einsum_multiplies_by(shape, dtype):
    net = Net(dtype=dtype)
    weight = np.ones(shape, dtype)
    net.output(net.op("Einsum", net.input(2, K), weight, equation="bk,kn->bn", name="mix"), shape=(2, N))
    opsets = [onnx.helper.make_opsetid("", 17)]
    graph = load(onnx.helper.make_model(net.graph(), opset_imports=opsets, ir_version=8)).graph
    op = graph.op("mix")
    answer = facts_of(op).absorb_output(Node(graph, op), Affine.of(2.0, 0.0, None))
    assert isinstance(answer, Refusal) == (dtype != np.float32 or shape != (K, N))
    assert not isinstance(answer, Refusal) or answer.code == "dynamic-weights"


def test_einsum_has_no_layout():
    net = Net()
    graph = load(net.build(net.op("Einsum", net.input(2, K), net.draw(K, N), equation="bk,kn->bn", name="mix"))).graph
    assert linear_bias(graph, graph.op("mix")) is None


def test_einsum_takes_a_scale_that_precedes_where_it_refuses_a_shift():
    net = Net()
    x = net.op("Mul", net.op("Tanh", net.input(2, M, K)), net.draw(K))
    assert fold(net.build(net.op("Einsum", x, net.draw(M, K, N), equation="bhk,hkn->bhn"))).count("Mul") == 0


def test_einsum_of_two_run_time_operands_refuses():
    net = Net()
    y = net.op("Einsum", net.input(2, K), net.input(K, N), equation="bk,kn->bn", name="mix")
    assert_stays(fold(net.build(net.bn(y, N))), "dynamic-weights", "mix (Einsum)")


def test_every_order_of_scale_and_shift_is_one_gemm():
    net = Net()
    x = net.input(M, K)
    for kind in ("Add", "Mul", "Sub", "Div", "Add", "Mul"):
        x = net.op(kind, x, net.positive(K))
    y = gemm(net, x, (N,))
    for kind in ("Div", "Sub", "Mul", "Add"):
        y = net.op(kind, y, net.positive(N)) if kind != "Sub" else net.op(kind, net.positive(N), y)
    folded = fold(net.build(y))
    assert_gone(folded)
    assert folded.count() == 1


# -- a C that is computed ------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [1.0, -0.5])
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("shape", [(M, N), (N,), (1, N)])
def test_a_computed_c_carries_what_the_weights_take(shape, transposed, beta):
    net = Net()
    c = net.op("Gemm", net.input(M, 2, name="other"), net.draw(2, N))
    if shape != (M, N):
        c = net.op("Reshape", net.op("ReduceMean", c, axes=[0]), np.array(shape))
    weight = net.draw(N, K) if transposed else net.draw(K, N)
    y = net.op("Gemm", net.input(M, K), weight, c, transB=transposed, alpha=1.5, beta=beta)
    folded = fold(net.build(net.bn(y, N)))
    assert_gone(folded)


@pytest.mark.parametrize("shape", [(1,), (M, 1)])
def test_a_computed_c_that_is_broadcast_along_the_channels_cannot(shape):
    net = Net()
    c = net.op("Gemm", net.input(M, 2, name="other"), net.draw(2, 1))
    c = c if shape == (M, 1) else net.op("ReduceMean", c, axes=[0], keepdims=0)
    y = net.op("Gemm", net.input(M, K), net.draw(K, N), c)
    folded = fold(net.build(net.bn(y, N)))
    assert_stays(folded, "dynamic-bias")


def test_a_computed_c_that_somebody_else_sees_cannot():
    net = Net()
    c = net.op("Gemm", net.input(M, 2, name="other"), net.draw(2, N))
    net.output(net.op("Tanh", c))
    y = net.op("Gemm", net.input(M, K), net.draw(K, N), c)
    assert_stays(fold(net.build(net.bn(y, N))), "observed")
