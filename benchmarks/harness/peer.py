"""Run one other tool on a model, in its own words and with its own defaults.

    python peer.py TOOL MODEL OUTPUT

Executed by the interpreter that has the tool installed. Each tool gets its shortest way from file to
file: no checks, no reports, nothing imported that it does not need.
"""

import sys
from pathlib import Path


def onnx(source: str, target: str) -> None:
    """Not an optimiser: what it costs the onnx package to load a model and save it again."""
    import onnx

    onnx.save(onnx.load(source), target)


def onnxruntime(source: str, target: str, level: str) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = target
    options.log_severity_level = 3
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def onnxruntime_basic(source: str, target: str) -> None:
    onnxruntime(source, target, "BASIC")


def onnxruntime_extended(source: str, target: str) -> None:
    onnxruntime(source, target, "EXTENDED")


def onnxsim(source: str, target: str) -> None:
    import onnx
    import onnxsim

    onnx.save(onnxsim.simplify(source)[0], target)


def onnxslim(source: str, target: str) -> None:
    import onnx
    import onnxslim

    onnx.save(onnxslim.slim(source), target)


def onnxoptimizer(source: str, target: str) -> None:
    import onnx
    import onnxoptimizer

    onnx.save(onnxoptimizer.optimize(onnx.load(source)), target)


def onnxscript(source: str, target: str) -> None:
    import onnx
    import onnxscript.optimizer
    import onnxscript.rewriter

    model = onnxscript.optimizer.optimize(onnx.load(source))
    onnx.save(onnxscript.rewriter.rewrite(model), target)


def olive(source: str, target: str) -> None:
    from olive.model import ONNXModelHandler
    from olive.passes.olive_pass import create_pass_from_dict
    from olive.passes.onnx.peephole_optimizer import OnnxPeepholeOptimizer

    made = create_pass_from_dict(OnnxPeepholeOptimizer, {}, disable_search=True).run(
        ONNXModelHandler(source), str(Path(target).with_suffix(""))
    )
    Path(made.model_path).replace(target)


TOOLS = (onnx, onnxruntime_basic, onnxruntime_extended, onnxsim, onnxslim, onnxoptimizer, onnxscript, olive)

if __name__ == "__main__":
    {tool.__name__: tool for tool in TOOLS}[sys.argv[1]](sys.argv[2], sys.argv[3])
