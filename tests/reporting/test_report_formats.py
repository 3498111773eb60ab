"""What programs read: JSON, SARIF, GitHub annotations, Markdown."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from report_samples import FOLDS, finding, report

import bnfold
from bnfold.analysis import Finding, Severity, all_rules
from bnfold.reporting import as_json
from bnfold.reporting.renderers import render, rule_counts

SAMPLES = Path(__file__).parents[2] / "sample_models"
#: The published schema, from the package @microsoft/jest-sarif 1.0.0-beta.0 (MIT licence).
SARIF_SCHEMA = Path(__file__).with_name("sarif-2.1.0-rtm.5.json")
BROKEN = {"models/b.onnx": "models/b.onnx is damaged"}


class TestJson:
    def test_header_models_and_errors(self) -> None:
        data = json.loads(render("json", [report(finding())], BROKEN))
        assert data["schema"] == 1
        assert data["tool"] == {"name": "bnfold", "version": bnfold.__version__}
        assert data["errors"] == [{"model": "models/b.onnx", "message": "models/b.onnx is damaged"}]
        (model,) = data["models"]
        assert model["findings"][0] == {
            "code": "BN201", "name": "redundant-bias", "severity": "warning", "message": "conv_1 has something to say.",
            "layer": "conv_1", "scope": "", "repair": "fix", "values": {"n": 8},
        }  # fmt: skip
        assert model["batchnorms"][1]["foldable"]["direction"] == "stays"
        assert model["batchnorms"][0]["statistics"]["dead_channels"] == 1
        assert model["summary"]["parameters"] == {
            "total": 1000, "trainable": None, "non_trainable": None, "in_batchnorm": 64,
        }  # fmt: skip
        assert "statistics" not in data

    def test_statistics_on_request(self) -> None:
        reports = [report(finding("BN101", "info"), finding(), finding()), report(finding())]
        data = json.loads(render("json", reports, {}, counts=True))
        assert data["statistics"] == [
            {"code": "BN201", "name": "redundant-bias", "count": 3},
            {"code": "BN101", "name": "redundant-bias", "count": 1},
        ]

    def test_every_documented_key_is_there_and_no_other(self) -> None:
        text = (Path(__file__).parents[2] / "docs" / "json.md").read_text(encoding="utf-8")
        (model,) = json.loads(render("json", [report(finding())], {}))["models"]
        for part in (
            model,
            model["batchnorms"][0],
            model["findings"][0],
            model["summary"],
            FOLDS.to_dict()["foldable"],
        ):
            for key in part:
                assert f"`{key}`" in text or f"`foldable.{key}`" in text or f".{key}`" in text, key

    def test_numbers_that_json_does_not_have(self) -> None:
        assert json.loads(as_json.dump({"a": [math.nan, -math.inf, (1.5,)]})) == {"a": ["nan", "-inf", [1.5]]}


class TestSarif:
    @staticmethod
    def validated(reports: list[Any], failures: dict[str, str]) -> dict[str, Any]:
        data = json.loads(render("sarif", reports, failures))
        schema = json.loads(SARIF_SCHEMA.read_text(encoding="utf-8"))
        jsonschema.Draft4Validator(schema).validate(data)
        return data

    def test_a_real_report_fits_the_published_schema(self) -> None:
        reports = [bnfold.analyze(path) for path in sorted(SAMPLES.glob("*.onnx"))]
        data = self.validated(reports, BROKEN)
        (run,) = data["runs"]
        assert len(run["results"]) == sum(len(item.findings) for item in reports) > 0
        assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == [rule.code for rule in all_rules()]

    def test_the_schema_is_one_that_refuses(self) -> None:
        schema = json.loads(SARIF_SCHEMA.read_text(encoding="utf-8"))
        data = json.loads(render("sarif", [report(finding())], {}))
        data["runs"][0]["results"][0]["level"] = "fatal"
        assert not jsonschema.Draft4Validator(schema).is_valid(data)

    def test_a_result(self) -> None:
        data = self.validated([report(finding("BN302", "error"), finding("BN403", layer=""))], {})
        first, second = data["runs"][0]["results"]
        assert (first["ruleId"], first["level"]) == ("BN302", "error")
        assert data["runs"][0]["tool"]["driver"]["rules"][first["ruleIndex"]]["id"] == "BN302"
        location = first["locations"][0]
        assert location["physicalLocation"]["artifactLocation"]["uri"] == "models/a.onnx"
        assert location["logicalLocations"][0]["fullyQualifiedName"] == "conv_1"
        assert "logicalLocations" not in second["locations"][0], "a finding about the whole model"
        assert data["runs"][0]["invocations"][0]["executionSuccessful"] is True

    def test_fingerprints_tell_layers_apart_and_ignore_numbers(self) -> None:
        findings = [finding(layer="a"), finding(layer="b"), finding(layer="a", message="other numbers")]
        results = self.validated([report(*findings)], {})["runs"][0]["results"]
        one, two, three = (result["partialFingerprints"]["bnfold/v1"] for result in results)
        assert one == three != two

    def test_a_model_that_cannot_be_read(self) -> None:
        invocation = self.validated([], BROKEN)["runs"][0]["invocations"][0]
        assert invocation["executionSuccessful"] is False
        assert invocation["toolExecutionNotifications"][0]["message"]["text"] == "models/b.onnx is damaged"

    @pytest.mark.parametrize(
        ("model", "uri"),
        [("a b/ü#1.onnx", "a%20b/%C3%BC%231.onnx"), ("/tmp/x.onnx", "file:///tmp/x.onnx")],
    )
    def test_paths_become_uris(self, model: str, uri: str) -> None:
        (result,) = self.validated([report(finding(), model=model)], {})["runs"][0]["results"]
        assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == uri


class TestGithub:
    @pytest.mark.parametrize(("severity", "command"), [("error", "error"), ("warning", "warning"), ("info", "notice")])
    def test_one_line_a_finding(self, severity: str, command: str) -> None:
        text = render("github", [report(finding(severity=severity))], {})
        assert text == f"::{command} file=models/a.onnx,title=BN201 redundant-bias::conv_1 has something to say."

    def test_what_would_end_a_command_is_escaped(self) -> None:
        text = render("github", [report(finding(message="100 %,\nnext: line"), model="a,b:c.onnx")], {})
        assert text == "::warning file=a%2Cb%3Ac.onnx,title=BN201 redundant-bias::100 %25,%0Anext: line"

    def test_a_model_that_cannot_be_read(self) -> None:
        assert render("github", [], BROKEN) == "::error file=models/b.onnx,title=bnfold::models/b.onnx is damaged"


class TestMarkdown:
    def test_tables(self) -> None:
        text = render("markdown", [report(finding())], BROKEN)
        assert "### models/a.onnx\n\n2 BN, 1 of them fold." in text
        assert "| 🟡 warning | BN201 | conv\\_1 | conv\\_1 has something to say. |" in text
        assert "| bn\\_1 | 8 | Conv → BN → Relu | before activation | folds backward into conv\\_1 |" in text
        assert "### models/b.onnx\n\n🔴 models/b.onnx is damaged" in text

    def test_names_cannot_break_out(self) -> None:
        text = render("markdown", [report(finding(layer="a|b<script>`", message="see [x](y)"))], {})
        assert "| a\\|b\\<script\\>\\` | see \\[x\\](y) |" in text

    def test_nothing_to_say(self) -> None:
        assert render("markdown", [report(batchnorms=())], {}) == (
            "### models/a.onnx\n\nNo BatchNormalization in this model.\n\nNo findings."
        )


def test_rules_are_counted_most_often_first_and_then_by_code() -> None:
    findings = [Finding(code, code.lower(), Severity.INFO, "") for code in ("BN203", "BN101", "BN203", "BN102")]
    assert rule_counts([report(*findings)]) == [(2, "BN203", "bn203"), (1, "BN101", "bn101"), (1, "BN102", "bn102")]
