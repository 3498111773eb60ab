"""Fold random graphs of every opset and number format, and verify them: ``python tests/fuzz/fuzz_verdicts.py 0 20000``.

``--size 45`` grows graphs of up to 45 operators, ``--seconds 90`` stops after so much CPU time.

No fold may fail, no result may be refused by onnx's checker, and no fold may be rejected by verification, which knows
nothing of how it was made. Graph ``i`` is always the same one; ``fuzz_verdicts.py 17 1`` repeats the eighteenth.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parents[1])]

import numpy as np  # noqa: E402
import onnx  # noqa: E402
from graph_choices import Seeded  # noqa: E402
from helpers import fold_unrun  # noqa: E402
from onnx import ModelProto  # noqa: E402
from versioned import BFLOAT16, grow_versioned  # noqa: E402

import bnfold  # noqa: E402
from bnfold.verification import VerifyOptions, verify  # noqa: E402

#: The newest opset that onnxruntime 1.31 runs.
NEWEST = 26


def model_of(index: int, *, size: int = 14) -> tuple[str, ModelProto]:
    """Graph ``index`` and its kind."""
    choices = Seeded(index, 20_000)
    opset = choices.integer(7, NEWEST)
    dtype = [np.float32, np.float32, np.float32, np.float16, BFLOAT16, np.float64][choices.integer(0, 5)]
    if np.dtype(dtype) == BFLOAT16:
        opset = max(opset, 13)
    ir_version = 3 if opset < 9 and choices.integer(0, 1) else 8 if opset < 20 else 10
    name = f"{np.dtype(dtype).name} opset {opset} ir {ir_version}"
    return name, grow_versioned(opset, ir_version, dtype, index, choices, size=size)


def is_valid(model: ModelProto) -> bool:
    """Some operators are not defined for every number format."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def outcome(model: ModelProto) -> tuple[str, str]:
    """One word for what came of it, in capitals where it is a failure, and the sentence."""
    result = bnfold.fold(model)
    if not result.plan.steps:
        return "nothing to fold", ""
    fold_unrun(model)
    check = verify(model, result.model, VerifyOptions(feeds=4))
    return check.verdict if check.verdict in ("equal", "within rounding", "not verified") else "REJECTED", (
        check.sentence()
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("first", type=int, help="the first graph")
    parser.add_argument("count", type=int, help="how many graphs")
    parser.add_argument("--size", type=int, default=14, help="the largest number of decisions a graph is made of")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="CPU time after which no graph is begun")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    begin = time.process_time()
    for index in range(options.first, options.first + options.count):
        if time.process_time() - begin > options.seconds:
            break
        kind = ""
        try:
            kind, model = model_of(index, size=options.size)
            verdict, words = outcome(model) if is_valid(model) else ("not valid", "")
        except Exception:  # noqa: BLE001 - whatever a fold raises is a finding
            verdict, words = "FAILED", traceback.format_exc()
        counts[verdict] += 1
        if verdict.isupper() or verdict == "not verified":
            print(f"--- {index} ({kind}): {verdict} {words}", flush=True)
        if verdict.isupper() and kind:
            onnx.save(model_of(index, size=options.size)[1], f"verdict_{index}_{options.size}.onnx")
    spent = time.process_time() - begin
    print(f"{counts.total()} graphs of size {options.size} from {options.first} in {spent:.0f} s: {dict(counts)}")
    return int(any(verdict.isupper() for verdict in counts))


if __name__ == "__main__":
    sys.exit(main())
