"""Choosing rules: codes, prefixes, mistakes; and what every rule has to say about itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from onnx_nets import Net, usual

import bnfold
from bnfold.analysis import Severity, all_rules, find_rule, select_rules
from bnfold.analysis.rule import SECTIONS
from bnfold.errors import UsageError
from bnfold.reporting.catalogue import document


def chosen(select: list[str] | None = None, ignore: list[str] | None = None) -> list[str]:
    return [rule.code for rule in select_rules(select, ignore)]


def test_everything_by_default() -> None:
    assert chosen() == [rule.code for rule in all_rules()]
    assert {"BN101", "BN201", "BN301", "BN401"} < set(chosen())


def test_a_code_and_a_prefix() -> None:
    assert chosen(["BN301", "bn20"]) == ["BN201", "BN202", "BN203", "BN204", "BN301"]
    assert chosen(["ALL"]) == chosen()


def test_the_longer_one_wins() -> None:
    assert chosen(["BN2", "BN301"], ["BN3", "BN202"]) == ["BN201", "BN203", "BN204", "BN301"]
    assert chosen(None, ["BN"]) == []
    assert chosen(["BN101"], ["BN101"]) == []


@pytest.mark.parametrize(
    ("code", "hint"),
    [("BN20l", "did you mean BN20"), ("BN999", "did you mean BN"), ("E501", "there is no rule 'E501'")],
)
def test_an_unknown_code_names_the_nearest(code: str, hint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(hint)):
        bnfold.analyze(usual(), select=[code])
    with pytest.raises(UsageError):
        bnfold.analyze(usual(), ignore=[code])


def test_a_rule_is_found_by_code_or_name() -> None:
    assert find_rule("bn202").code == "BN202"
    assert find_rule("missing-bias").code == "BN202"
    with pytest.raises(UsageError, match="did you mean missing-bias"):
        find_rule("mising-bias")


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_every_rule_explains_itself(rule: object) -> None:
    sections = rule.sections()  # type: ignore[attr-defined]
    assert tuple(sections) == SECTIONS
    assert all(sections.values())
    assert re.fullmatch(r"BN[1-4]\d\d", rule.code)  # type: ignore[attr-defined]
    assert re.fullmatch(r"[a-z]+(-[a-z]+)+", rule.name)  # type: ignore[attr-defined]
    assert rule.summary().endswith(".")  # type: ignore[attr-defined]


def test_severities_of_the_catalogue() -> None:
    by_severity = {severity: [rule.code for rule in all_rules() if rule.severity is severity] for severity in Severity}
    assert by_severity[Severity.ERROR] == ["BN106", "BN302", "BN306", "BN401"]
    assert by_severity[Severity.WARNING] == [
        "BN102", "BN103", "BN107", "BN109", "BN201", "BN202", "BN204", "BN301", "BN304", "BN403", "BN408",
    ]  # fmt: skip


def test_the_documentation_is_what_the_rules_say() -> None:
    committed = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    assert committed == document(), "run python -m bnfold.reporting.catalogue"


def test_findings_come_in_the_order_of_the_layers() -> None:
    net = Net()
    x = net.start()
    for number in (1, 2, 3):
        x = net.conv(f"conv_{number}", x, 3, 3, 1, bias=True)
        x = net.act(f"relu_{number}", net.norm(f"bn_{number}", x, 3))
    model = net.build(net.conv("last", x, 3, 2, 1, bias=True))
    found = [(finding.layer, finding.code) for finding in bnfold.analyze(model, select=["BN201", "BN203"]).findings]
    assert found == [(f"{kind}_{i}", code) for i in (1, 2, 3) for kind, code in (("conv", "BN201"), ("bn", "BN203"))]
    assert bnfold.analyze(model) == bnfold.analyze(model)
