"""The plan: what it says of each operator, in words, as data, and to what follows a composition."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from helpers import Net, fold

from bnfold.folding.plan import FoldKind, FoldStep, Plan, Remaining

C = 4


def conv(net: Net, x: str, inside: int = 3) -> str:
    return net.op("Conv", x, net.draw(C, inside, 1, 1))


def many() -> Plan:
    """A plan with a fold backward, one forward, a composition, and one that stays."""
    net = Net()
    y = net.bn(conv(net, net.input("N", 3, 4, 4)), C, name="behind_conv")
    y = net.bn(net.op("Relu", y, name="relu"), C, name="before_conv")
    y = net.op("Tanh", conv(net, y, C), name="tanh")
    y = net.op("Sigmoid", net.bn(net.bn(y, C, name="first"), C, name="second"), name="sigmoid")
    return fold(net.build(y)).plan


def test_every_operator_has_a_fate():
    plan = many()
    kinds = {step.subject: step.kind for step in plan.steps}
    assert kinds == {"behind_conv": "backward", "before_conv": "forward", "second": "composed"}
    assert plan.fate("behind_conv").kind == "backward"
    assert isinstance(plan.fate("first"), Remaining)
    assert plan.fate("relu") is None


def test_a_composed_operator_shares_the_fate_of_what_it_went_into():
    fate = many().fate("second")
    assert isinstance(fate, Remaining)
    assert fate.subject == "first"


def test_the_sentences():
    plan = many()
    sentences = [step.sentence() for step in plan.steps]
    assert sentences[0].startswith("behind_conv (BatchNormalization): folded backward into conv_")
    (left,) = plan.remaining
    assert left.sentence() == (
        "first (BatchNormalization) stays. Backward: tanh (Tanh) is nonlinear. Forward: sigmoid (Sigmoid) is nonlinear."
        f" With its stream: {left.together.sentence}."
    )
    assert left.is_batchnorm


def test_a_fold_through_others_names_them():
    net = Net()
    y = net.op("Identity", conv(net, net.input("N", 3, 4, 4)), name="same")
    y = net.op("Tanh", net.bn(net.op("MaxPool", y, kernel_shape=[2, 2], name="pool"), C, name="bn"))
    (step,) = fold(net.build(y)).plan.steps
    assert step.through == ("pool", "same")
    assert step.sentence().endswith("through pool, same")


def test_a_fold_into_a_constant_names_it():
    net = Net()
    y = net.op("Add", net.input(2, C), net.bn(net.const(net.draw(2, C), "table"), C, name="bn"))
    (step,) = fold(net.build(y)).plan.steps
    assert step.kind == "constant"
    assert step.into == ("table",)


def test_a_fold_into_several_names_them_all():
    net = Net()
    x = net.bn(net.op("Tanh", net.input("N", C, 4, 4)), C, name="bn")
    (step,) = fold(net.build(conv(net, x, C), conv(net, x, C)), branches=False).plan.steps
    assert len(step.into) == len(step.holders) == 2


def test_a_plan_is_data():
    plan = many()
    data = json.loads(json.dumps(plan.to_dict()))
    assert [step["kind"] for step in data["steps"]] == [step.kind.value for step in plan.steps]
    assert set(data["remaining"][0]["backward"]) == {"code", "sentence"}
    assert data["notes"] == []


def test_every_kind_has_words():
    steps = [FoldStep(subject="bn", label="bn", type="BatchNormalization", kind=k, into=("x",)) for k in FoldKind]
    assert len({step.sentence() for step in steps}) == len(FoldKind)
    assert all(step.sentence().startswith("bn (BatchNormalization): ") for step in steps)


def test_steps_compare_by_what_they_say():
    step = FoldStep(subject="bn", label="bn", type="BatchNormalization", kind=FoldKind.FORWARD)
    assert step == replace(step)
    assert step != replace(step, into=("conv",))


def test_what_became_simpler_stays_under_its_name():
    net = Net()
    y = net.op("Tanh", net.input("N", C), name="tanh")
    y = net.op("Sigmoid", net.exact_bn(y, np.ones(C), net.draw(C), name="bn"))
    plan = fold(net.build(y)).plan
    assert [step.kind for step in plan.steps] == ["cheaper"]
    fate = plan.fate("bn")
    assert isinstance(fate, Remaining)
    assert fate.type == "Add"


def test_nothing_is_known_of_what_is_not_there():
    assert Plan().fate("bn") is None


def test_what_a_branch_took_with_it_has_its_fate():
    step = FoldStep(
        subject="sum",
        label="sum",
        type="Add",
        kind=FoldKind.BRANCH,
        into=("conv",),
        holders=("conv",),
        removed=("bn", "other"),
    )
    assert Plan((step,)).fate("other") is step


def test_unread_operators_are_noted():
    net = Net()
    x = net.input("N", C)
    net.op("Tanh", net.bn(x, C))
    folded = fold(net.build(net.op("Sigmoid", x)))
    assert folded.count() == 1
    assert folded.plan.notes == ("2 operators whose results nobody reads are gone",)
    assert not folded.plan.steps
