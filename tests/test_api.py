"""The public API: what the package's docstring shows, and what it promises about arguments and results."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import helpers
import numpy as np
import onnx
import pytest

import bnfold
from bnfold import api

SAMPLES = Path(__file__).parents[1] / "sample_models"
CNN = SAMPLES / "digits_cnn.onnx"


def bytes_of(model: api.Model) -> bytes:
    return model.to_proto().SerializeToString(deterministic=True)  # type: ignore[attr-defined,no-any-return]


def test_the_tour(tmp_path: Path) -> None:
    model = bnfold.load(CNN)
    report = bnfold.analyze(model)
    assert [item.name for item in report.batchnorms] == [f"/{number}/BatchNormalization" for number in (1, 4, 8)]
    assert report.summary.batchnorms == 3
    assert "BN201" in {finding.code for finding in report.findings}
    result = bnfold.fold(model)
    assert len(result.plan.steps) == 3
    assert result.refusals == ()
    check = bnfold.verify(model, result.model)
    assert check.equivalent
    assert check.first_difference is None
    assert {output.name for output in check.outputs} == {"logits"}
    result.model.save(tmp_path / "folded.onnx")
    assert bnfold.verify(CNN, tmp_path / "folded.onnx").equivalent


@pytest.mark.parametrize("kind", ["path", "string", "bytes", "proto", "loaded"])
def test_every_kind_of_source(kind: str) -> None:
    source = {
        "path": CNN,
        "string": str(CNN),
        "bytes": CNN.read_bytes(),
        "proto": onnx.load(CNN),
        "loaded": bnfold.load(CNN),
    }[kind]
    report = bnfold.analyze(source)
    assert report.summary.batchnorms == 3
    assert report.model == ("main_graph" if kind in ("bytes", "proto") else str(CNN))
    assert bnfold.fold(source).summary.after.batchnorms == 0


def test_the_model_that_is_given_stays_as_it_is() -> None:
    proto = onnx.load(CNN)
    before = proto.SerializeToString(deterministic=True)
    model = bnfold.load(proto)
    untouched = bytes_of(model)
    bnfold.fold(model)
    bnfold.fix(model)
    bnfold.analyze(model, stats=True)
    assert proto.SerializeToString(deterministic=True) == before
    assert bytes_of(model) == untouched


def test_fold_verifies_on_request_alone() -> None:
    assert bnfold.fold(CNN).verification is None
    found = bnfold.fold(CNN, verify=True).verification
    assert found is not None
    assert found.equivalent


def test_fold_skips_steps() -> None:
    step = bnfold.fold(CNN).plan.steps[0]
    result = bnfold.fold(CNN, skip={step.subject})
    assert [item.name for item in bnfold.analyze(result.model).batchnorms] == [step.label]


def test_fold_counts_before_and_after() -> None:
    summary = bnfold.fold(CNN).summary
    nodes = onnx.load(CNN).graph.node
    assert summary.before.nodes == len(nodes) == summary.after.nodes + 3
    weights = [t for t in onnx.load(CNN).graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert summary.before.parameters == sum(int(np.prod(tensor.dims)) for tensor in weights)
    assert summary.before.bytes == 4 * summary.before.parameters


def test_functions_are_inlined_where_they_hold_a_bn() -> None:
    body = [onnx.helper.make_node("BatchNormalization", ["X", "g", "b", "m", "v"], ["Y"])]
    function = onnx.helper.make_function(
        "local", "Norm", ["X", "g", "b", "m", "v"], ["Y"], body, [onnx.helper.make_opsetid("", 17)]
    )
    net = helpers.Net()
    x = net.op("Conv", net.input(1, 3, 8, 8), net.draw(4, 3, 3, 3), name="conv")
    vectors = [net.positive(4) for _ in range(4)]
    y = net.op("Norm", x, *vectors, name="norm", domain="local")
    net.functions.append(function)
    net.domains["local"] = 1
    model = net.build()
    model.graph.output.append(onnx.helper.make_tensor_value_info(y, onnx.TensorProto.FLOAT, [1, 4, 6, 6]))
    report = bnfold.analyze(model)
    assert len(report.batchnorms) == 1
    assert report.batchnorms[0].foldability.folds
    result = bnfold.fold(model, verify=True)
    assert (result.summary.before.batchnorms, result.summary.after.batchnorms) == (1, 0)
    assert result.verification is not None
    assert result.verification.equivalent


def test_results_are_frozen_and_serialisable() -> None:
    results = [bnfold.analyze(CNN, stats=True), bnfold.fold(CNN, verify=True), bnfold.fix(CNN), bnfold.verify(CNN, CNN)]
    for result in results:
        json.dumps(result.to_dict())
        with pytest.raises(FrozenInstanceError):
            setattr(result, fields(result)[0].name, None)


def test_errors_have_one_base_and_an_exit_code() -> None:
    with pytest.raises(bnfold.ModelFileError, match=r"nowhere\.onnx") as caught:
        bnfold.analyze("nowhere.onnx")
    assert isinstance(caught.value, bnfold.BnfoldError)
    assert caught.value.exit_code == 2
    with pytest.raises(bnfold.UsageError):
        bnfold.load(42)


def test_check_runtime() -> None:
    assert api.check_runtime(CNN).equivalent


def test_options_are_given_whole_or_one_by_one() -> None:
    options = bnfold.VerifyOptions(seed=3, threads=1)
    whole, single = bnfold.verify(CNN, CNN, options=options), bnfold.verify(CNN, CNN, seed=3, threads=1)
    assert whole.outputs == single.outputs
    assert bnfold.check_runtime(CNN, options=options).equivalent
    for given in ({"rtol": 0.1}, {"inputs": {"image": np.zeros((1, 1, 8, 8), np.float32)}}):
        with pytest.raises(bnfold.UsageError, match="give one or the other"):
            bnfold.verify(CNN, CNN, options=options, **given)  # type: ignore[arg-type]
        with pytest.raises(bnfold.UsageError, match="give one or the other"):
            bnfold.check_runtime(CNN, options=options, **given)  # type: ignore[arg-type]


def test_options_are_frozen_and_have_names_alone() -> None:
    options = bnfold.VerifyOptions(rtol=0.1)
    with pytest.raises(FrozenInstanceError):
        options.rtol = 0.2  # type: ignore[misc]
    with pytest.raises(TypeError):
        bnfold.VerifyOptions(0.1)  # type: ignore[misc]
    for name in ("rtol", "atol", "seed", "timeout", "memory"):
        with pytest.raises(bnfold.UsageError, match=f"{name} must not be negative"):
            bnfold.VerifyOptions(**{name: -1})  # type: ignore[arg-type]
    for name in ("threads", "feeds"):
        assert getattr(bnfold.VerifyOptions(**{name: 1}), name) == 1  # type: ignore[arg-type]
        with pytest.raises(bnfold.UsageError, match=f"{name} must be at least 1"):
            bnfold.VerifyOptions(**{name: 0})  # type: ignore[arg-type]


def test_everything_in_the_package_is_there_and_lazy() -> None:
    for name in bnfold.__all__:
        assert getattr(bnfold, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        bnfold.nothing  # noqa: B018
    code = "import sys, bnfold; sys.exit('numpy' in sys.modules or 'onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_threads_may_use_the_api_at_once() -> None:
    from concurrent.futures import ThreadPoolExecutor

    model = bnfold.load(CNN)
    with ThreadPoolExecutor(8) as pool:
        plans = list(pool.map(lambda _: bnfold.fold(model).plan.to_dict(), range(16)))
    assert all(plan == plans[0] for plan in plans)


def test_dir_and_help_show_the_functions() -> None:
    """They are imported on first use, and must be seen before that."""
    code = "import bnfold, pydoc; print(dir(bnfold)); print(pydoc.plain(pydoc.render_doc(bnfold)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in ("load", "analyze", "fold", "verify", "fix"):
        assert f"'{name}'" in out.splitlines()[0]
        assert f"    {name}(" in out
    assert set(dir(bnfold)) >= set(bnfold.__all__)


def test_what_a_session_shows_is_short_and_says_something() -> None:
    model = bnfold.load(CNN)
    folded = bnfold.fold(model, verify=True)
    assert repr(model) == f"<OnnxModel {CNN}: {len(model.graph)} operators>"
    assert repr(folded).startswith(
        f"FoldResult({len(model.graph)} → {len(folded.model.graph)} nodes, 3 → 0 BN, 3 steps"
    )
    assert repr(bnfold.analyze(model)).startswith(f"Report({str(CNN)!r}, 3 BN, 3 fold")
    shown = [model, model.graph, model.graph.ops()[0], folded, folded.plan, folded.verification, bnfold.fix(model)]
    assert all(len(repr(item)) < 250 and " at 0x" not in repr(item) for item in shown)
