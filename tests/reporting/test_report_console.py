"""What people read: tables and sentences on a terminal or in a file."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from report_samples import FOLDS, STAYS, finding, report
from rich.console import Console

from bnfold.analysis import Foldability, Size, Summary, find_rule
from bnfold.analysis.phrases import plural
from bnfold.folding import FoldKind, FoldStep, Plan, Remaining
from bnfold.folding.plan import Contradiction
from bnfold.refusal import Refusal
from bnfold.reporting import as_text, catalogue, outcomes
from bnfold.reporting.console import line, make_console
from bnfold.reporting.text import clean, file_size, shortened, signed
from bnfold.results import Comparison, FoldResult


@pytest.fixture
def sink() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def console(sink: io.StringIO) -> Console:
    return make_console(sink)


class TestWords:
    def test_what_a_terminal_would_obey_is_escaped(self) -> None:
        assert clean("a\x1b[31mb\nc\u202ed") == "a\\x1b[31mb\\nc\\u202ed"
        assert clean("größe → BN") == "größe → BN"
        assert clean("\udcff") == "\\udcff"

    @pytest.mark.parametrize(
        ("count", "text"), [(None, "–"), (0, "0 B"), (999, "999 B"), (1_270_727, "1.27 MB"), (4_000_000_000, "4 GB")]
    )
    def test_file_size(self, count: int | None, text: str) -> None:
        assert file_size(count) == text

    @pytest.mark.parametrize(
        ("value", "text"), [(-0.01594, "-0.0159"), (-4e-5, "+0.0000"), (-6e-5, "-0.0001"), (0.25, "+0.2500")]
    )
    def test_a_difference_of_nothing_has_no_minus(self, value: float, text: str) -> None:
        assert signed(value) == text

    def test_plural_and_lists(self) -> None:
        assert (plural(1, "node"), plural(1200, "node"), plural(2, "BN", "BN")) == ("1 node", "1,200 nodes", "2 BN")
        assert shortened(["a", "b"]) == "a, b"
        assert shortened(list("abcdef"), 2) == "a, b and 4 more"


class TestAnalysis:
    def test_placements_findings_and_summary(self, console: Console, sink: io.StringIO) -> None:
        as_text.print_report(console, report(finding(), finding("BN403", "warning", layer="")))
        text = sink.getvalue()
        assert text.startswith("models/a.onnx\n")
        assert "folds backward into conv_1" in text
        assert "stays: relu (Relu) is nonlinear; conv_2 (Conv) pads with zeros" in text
        assert "  conv_1\n    warning BN201 conv_1 has something to say.\n" in text
        assert "  the whole model\n    warning BN403 the model has something to say.\n" in text
        assert "2 BN: 1 before activation, 1 after activation" in text
        assert "1,000 parameters, 64 of them in BN" in text
        assert "folding removes 1 of 2, with 1 node and 32 parameters" in text

    def test_no_line_ends_in_spaces(self, console: Console, sink: io.StringIO) -> None:
        as_text.print_report(console, report(finding()))
        assert not [row for row in sink.getvalue().splitlines() if row != row.rstrip()]

    @pytest.mark.parametrize(
        ("placements", "foldable", "folded", "rows"),
        [
            ({"before activation": 1}, 1, Size(9, 0, 0, 968), (
                "1 BN, before activation", "folding removes it, with 1 node and 32 parameters")),
            ({"before activation": 2}, 2, Size(9, 0, 0, 1001), (
                "2 BN, all before activation", "folding removes all of them, with 1 node, and adds 1 parameter")),
            ({"before activation": 1, "after activation": 1}, 2, Size(10, 0, 1, 968), (
                "2 BN: 1 before activation, 1 after activation",
                "folding removes all of them, with 0 nodes and 32 parameters; 1 scale or shift stays in place of BN")),
            ({"after activation": 1}, 0, Size(10, 1, 0, 1000), (
                "1 BN, after activation", "folding does not remove it")),
            ({"after activation": 2}, 0, Size(10, 2, 0, 1000), (
                "2 BN, all after activation", "folding removes none of them")),
        ],
    )  # fmt: skip
    def test_the_summary_in_words(
        self, console: Console, sink: io.StringIO, placements: dict[str, int], foldable: int, folded: Size,
        rows: tuple[str, str],
    ) -> None:  # fmt: skip
        summary = Summary(Size(10, 2, 0, 1000), folded, placements, foldable)
        as_text.print_summary(console, replace(report(), summary=summary))
        said = [row.strip() for row in sink.getvalue().splitlines()]
        assert (said[0], said[2]) == rows

    def test_a_model_without_bn_is_told_so_in_one_line(self, console: Console, sink: io.StringIO) -> None:
        as_text.print_report(console, report(batchnorms=()))
        rows = sink.getvalue().splitlines()
        assert rows[1:3] == ["  no BatchNormalization in this model", "  1,000 parameters"]

    def test_where_the_finding_says_so_nothing_else_does(self, console: Console, sink: io.StringIO) -> None:
        as_text.print_report(console, report(finding("BN110", "info", "", "no BN here."), batchnorms=()))
        assert "info BN110 no BN here." in sink.getvalue()
        assert "no BatchNormalization in this model" not in sink.getvalue()

    def test_quiet_names_the_model_where_there_are_several(self, console: Console, sink: io.StringIO) -> None:
        as_text.print_report(console, report(finding()), quiet=True, several=True)
        assert sink.getvalue().startswith("models/a.onnx\n  conv_1\n")
        sink.truncate(0)
        as_text.print_report(console, report(finding()), quiet=True)
        assert "models/a.onnx" not in sink.getvalue()
        sink.truncate(0)
        as_text.print_report(console, report(), quiet=True, several=True)
        assert not sink.getvalue().strip("\0")

    def test_many_bn_that_are_alike_share_a_row(self, console: Console, sink: io.StringIO) -> None:
        path = "network/first/second"
        many = tuple(
            replace(
                FOLDS, name=f"{path}/bn_{i}", channels=8 + i, foldability=Foldability("backward", (f"{path}/c_{i}",))
            )
            for i in range(60)
        )
        as_text.print_report(console, report(batchnorms=(*many, STAYS)))
        assert "bn_0 and 59 more" in sink.getvalue()
        assert "8–67" in sink.getvalue()
        assert "(and 59 more alike)" in sink.getvalue()
        assert "--verbose shows every one" in sink.getvalue()
        sink.truncate(0)
        as_text.print_report(console, report(batchnorms=many), verbose=True)
        assert "  … stands for network/first/second/\n" in sink.getvalue()
        assert all(f"…/bn_{i} " in sink.getvalue() for i in range(60))
        sink.truncate(0)
        as_text.print_report(console, report(batchnorms=many[:59]))
        assert "…/bn_58 " in sink.getvalue()

    def test_a_warning_that_repeats_itself_is_one_entry(self, console: Console, sink: io.StringIO) -> None:
        warnings = [finding(layer=f"conv_{i}") for i in range(21)]
        as_text.print_finding_list(console, warnings)
        assert sink.getvalue().count("BN201") == 1
        assert "and the same for conv_1, conv_2" in sink.getvalue()
        for shown in (lambda: as_text.print_finding_list(console, warnings, verbose=True),
                      lambda: as_text.print_finding_list(console, warnings[:20])):  # fmt: skip
            sink.truncate(0)
            shown()
            assert sink.getvalue().count("BN201") >= 20

    @pytest.mark.parametrize("width", [20, 60, 80, 120])
    def test_no_word_is_broken(self, width: int) -> None:
        for terminal in (True, False):
            sink = io.StringIO()
            as_text.print_report(Console(file=sink, width=width, force_terminal=terminal, color_system=None), report())
            assert {"BatchNormalization", "activation", "conv_2"} <= set(sink.getvalue().split())

    def test_numbers_on_request(self, console: Console, sink: io.StringIO) -> None:
        as_text.print_report(console, report())
        assert "0.5 / 1 / 2" in sink.getvalue()
        assert "NaN / 1 / 3" in sink.getvalue()
        assert "1.0 → 2.5" in sink.getvalue()

    def test_no_numbers_without_a_request(self, console: Console, sink: io.StringIO) -> None:
        as_text.print_report(console, report(batchnorms=(STAYS,)))
        assert "|scale|" not in sink.getvalue()

    def test_a_rule_that_repeats_itself_is_one_entry(self, console: Console, sink: io.StringIO) -> None:
        infos = [finding("BN203", "info", layer=f"bn_{number}") for number in range(30)]
        warnings = [finding(layer=f"conv_{number}") for number in range(8)]
        as_text.print_finding_list(console, [*infos, *warnings])
        text = sink.getvalue()
        assert text.count("BN203") == 1
        assert "  30 layers\n    info BN203 bn_0 has something to say.\n" in text
        assert "and the same for bn_1, bn_2, bn_3, bn_4, bn_5, bn_6, bn_7, bn_8 and 21 more" in text
        assert text.count("BN201") == 8, "warnings are never put together"

    def test_quiet_prints_the_findings_alone(self, console: Console, sink: io.StringIO) -> None:
        as_text.print_report(console, report(finding()), quiet=True)
        assert sink.getvalue() == "  conv_1\n    warning BN201 conv_1 has something to say.\n\n"

    def test_the_table_of_several_models(self, console: Console, sink: io.StringIO) -> None:
        as_text.print_overview(console, [report(finding(severity="error"))], {"b.onnx": "damaged"})
        rows = sink.getvalue().splitlines()
        assert rows[0].split() == ["model", "BN", "fold", "errors", "warnings", "infos"]
        assert rows[1].split() == ["models/a.onnx", "2", "1", "1", "0", "0"]
        assert rows[2].split(maxsplit=1) == ["b.onnx", "cannot be read"]


class TestTerminal:
    def test_colour_on_a_terminal_and_none_with_no_color(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def printed(**environment: str) -> str:
            for name in ("NO_COLOR", "TERM", "FORCE_COLOR", "COLUMNS"):
                monkeypatch.delenv(name, raising=False)
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            sink = Terminal()
            line(make_console(sink), ("error", "bold red"), " BN302")
            return sink.getvalue()

        assert "\x1b[1;31merror" in printed(TERM="xterm")
        assert "31m" not in printed(TERM="xterm", NO_COLOR="1")
        assert printed(TERM="dumb") == "error BN302\n"

    def test_paragraphs_are_indented_as_a_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "30")
        sink = Terminal()
        line(make_console(sink), "one two three four five six seven eight", indent=4)
        rows = sink.getvalue().splitlines()
        assert len(rows) > 1
        assert all(row.startswith("    ") and len(row) <= 30 for row in rows)

    def test_names_are_not_markup(self, console: Console, sink: io.StringIO) -> None:
        line(console, "[bold]layer[/bold] :smile:")
        assert sink.getvalue() == "[bold]layer[/bold] :smile:\n"


class Terminal(io.StringIO):
    """A file that says it is one."""

    def isatty(self) -> bool:
        return True


def step(label: str, kind: str = "backward", **parts: object) -> FoldStep:
    return FoldStep(
        subject=label,
        label=label,
        type="BatchNormalization",
        kind=FoldKind(kind),
        into=(f"conv_{label}",),
        **parts,  # type: ignore[arg-type]
    )


def remaining(label: str, **parts: object) -> Remaining:
    return Remaining(
        subject=label,
        label=label,
        type="BatchNormalization",
        is_batchnorm=True,
        backward=Refusal("a", "x is in the way"),
        forward=Refusal("b", "y is"),
        **parts,  # type: ignore[arg-type]
    )


def result(plan: Plan, **parts: object) -> FoldResult:
    summary = Comparison(
        Size(20, 4, 1, 5000, 20000), Size(16, 0, 0, 4900, 19600), file_before=21_000, file_after=20_500
    )
    return FoldResult(None, plan, summary, **parts)  # type: ignore[arg-type]


class TestFold:
    def test_what_went_where_and_what_stayed(self, console: Console, sink: io.StringIO) -> None:
        left = remaining("bn_9")
        plan = Plan((step("bn_1"), step("bn_2", "forward", through=("pool",))), (left,), ("a remark",))
        outcomes.print_fold(console, "a.onnx", result(plan))
        rows = [" ".join(row.split()) for row in sink.getvalue().splitlines()]
        assert "bn_1 BatchNormalization folded backward conv_bn_1" in rows
        assert "bn_2 BatchNormalization folded forward conv_bn_2 pool" in rows
        assert "bn_9 BatchNormalization x is in the way y is" in rows
        assert "a remark" in rows
        assert "nodes 20 16" in rows
        assert "BatchNormalization 4 0" in rows
        assert "file 21 KB 20.5 KB" in rows

    def test_what_went_with_its_stream_and_what_contradicts(self, console: Console, sink: io.StringIO) -> None:
        proof = Contradiction(sentence="bn_9 and bn_1 differ", of="shift", tensor="x", constraints=("bn_9", "bn_1"))
        left = remaining("bn_9", together=proof)
        gone = step("bn_1", "gauge", stream="sum_out", repaid=("conv_0", "conv_2"))
        outcomes.print_fold(console, "a.onnx", result(Plan((gone, step("bn_2")), (left,), ())))
        rows = [" ".join(row.split()) for row in sink.getvalue().splitlines()]
        assert "bn_1 BatchNormalization folded with its stream conv_bn_1 sum_out conv_0, conv_2" in rows, rows
        assert "bn_9 BatchNormalization x is in the way y is bn_9 and bn_1 differ" in rows

    def test_merged_branches_name_what_went(self, console: Console, sink: io.StringIO) -> None:
        merged = FoldStep(
            subject="s/add",
            label="add",
            type="Add",
            kind=FoldKind.BRANCH,
            into=("conv_3x3",),
            scope="s",
            removed=("s/add", "s/bn_0", "s/conv_1x1"),
        )
        outcomes.print_fold(console, "a.onnx", result(Plan((merged,))))
        rows = [" ".join(row.split()) for row in sink.getvalue().splitlines()]
        assert "add, bn_0, conv_1x1 Add merged with its parallel branches conv_3x3" in rows

    def test_a_long_plan_is_grouped(self, console: Console, sink: io.StringIO) -> None:
        steps = tuple(step(f"bn_{number}") for number in range(100))
        outcomes.print_fold(console, "a.onnx", result(Plan(steps)))
        text = " ".join(sink.getvalue().split())
        assert "bn_0 and 99 more 100 × BatchNormalization folded backward conv_bn_0 and 99 more" in text
        assert "--format json names every one" in text

    def test_nothing_to_fold(self, console: Console, sink: io.StringIO) -> None:
        outcomes.print_fold(console, "a.onnx", result(Plan()))
        assert "nothing to fold: bnfold sees no BN and no scale or shift by channel in this model" in sink.getvalue()

    def test_culprits_and_dropped_steps(self, console: Console, sink: io.StringIO) -> None:
        plan = Plan((step("bn_1"),))
        outcomes.print_fold(console, "a.onnx", result(plan, culprits=(step("bn_1"),), dropped=(step("bn_2"),)))
        text = sink.getvalue()
        assert "1 step makes the outputs differ by itself:" in text
        assert "bn_1 (BatchNormalization): folded backward into conv_bn_1" in text
        assert "left out, because it changed the outputs: bn_2 (BatchNormalization)" in text


class TestCatalogue:
    def test_a_page(self, console: Console, sink: io.StringIO) -> None:
        catalogue.print_rule(console, find_rule("BN202"))
        text = sink.getvalue()
        assert text.startswith("BN202 missing-bias warning\n")
        for title in ("What it finds", "Why it matters", "Example", "Fix", "Reference"):
            assert f"\n{title}\n" in text
        assert all(len(row) <= 102 for row in text.splitlines())
