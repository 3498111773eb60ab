"""Does onnxruntime keep a model's meaning? One model against itself under each optimisation level."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bnfold.display import Displayed
from bnfold.isolation import Ended, call
from bnfold.temporary import temporary_folder
from bnfold.verification.answers import NotVerifiableError
from bnfold.verification.comparison import Judge
from bnfold.verification.equivalence import compare
from bnfold.verification.exact.accuracy_judge import AccuracyJudge
from bnfold.verification.minimise import minimal
from bnfold.verification.noise.judge import NoiseJudge
from bnfold.verification.reference import Reference
from bnfold.verification.runtime.onnx_file import OnnxFile
from bnfold.verification.runtime.sessions import LEVELS, Candidate
from bnfold.verification.verdict import DIFFERENT, NOT_VERIFIED, Verification
from bnfold.verification.verifier import why_ended, worst_feed
from bnfold.verification.verify_options import DEFAULTS, VerifyOptions

if TYPE_CHECKING:
    from bnfold.verification.runtime.onnx_file import ModelLike

# fmt: off
#: The names by which onnxruntime (1.17 to 1.31) knows its optimizers; it ignores those it does not have.
OPTIMIZERS = (
    # Rewrite rules and transformers of the basic level.
    "EliminateIdentity", "EliminateSlice", "UnsqueezeElimination", "EliminateDropout", "ExpandElimination",
    "CastElimination", "CastChainElimination", "PreShapeNodeElimination", "NoopElimination", "DivMulFusion",
    "FuseReluClip", "GemmSumFusion", "GemmTransposeFusion", "NotWhereFusion", "ConvAddFusion", "ConvMulFusion",
    "ConvBNFusion", "Pad_Fusion", "MatMul_BatchNormalization_Fusion", "LabelEncoderFusion",
    "DoubleQDQPairsRemover", "ConstantSharing", "CommonSubexpressionElimination", "ConstantFolding",
    "ConstantFoldingDQ", "MatMulAddFusion", "ReshapeFusion", "FreeDimensionOverrideTransformer", "GeluFusionL1",
    "LayerNormFusionL1", "QDQPropagationTransformer", "WeightBiasQuantization", "EnsureUniqueDQForNodeUnit",
    "RocmBlasAltImpl", "TransposeOptimizer", "IdenticalChildrenConsolidation", "GatherSliceToSplitFusion",
    "GatherToSliceFusion", "SliceConcatToSpaceToDepthFusion",
    # Of the extended level.
    "ClipQuantRewrite", "ReluQuantRewrite", "TransposeOptimizer_CPUExecutionProvider", "QDQS8ToU8Transformer",
    "QDQSelectorActionTransformer", "GemmActivationFusion", "MatMulIntegerToFloatFusion",
    "DynamicQuantizeMatMulFusion", "ConvActivationFusion", "GeluFusionL2", "GeluFusion", "LayerNormFusionL2",
    "LayerNormFusion", "SimplifiedLayerNormFusion", "AttentionFusion", "EmbedLayerNormFusion", "GatherToSplitFusion",
    "MatmulTransposeFusion", "BiasGeluFusion", "GroupQueryAttentionFusion", "GroupQueryAttentionPreNormFusion",
    "SkipLayerNormFusion", "BiasSkipLayerNormFusion", "FastGeluFusion", "QuickGeluFusion", "BiasSoftmaxFusion",
    "BiasDropoutFusion", "MatMulScaleFusion", "MatMulActivationFusion", "MatMulNBitsFusion",
    "MatMulNBitsMlpFusion", "MatMulNBitsQkvFusion", "DQMatMulNBitsFusion", "GeluApproximation",
    "QDQFinalCleanupTransformer", "Avx2WeightS8ToU8Transformer",
    # Of the layout level.
    "NchwcTransformer", "NhwcTransformer", "ConvAddActivationFusion", "GqaValueLayoutTransformer",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class RuntimeCheck(Displayed):
    """A model with onnxruntime's optimisations off against itself with them on.

    ``levels`` holds one verification for each level name ("basic", "extended", "all"). ``culprits``
    are the optimizers that together make the difference of ``failing_level``: disabling them, and
    no fewer, cures it; empty if no difference was found or none of the known ones is to blame.
    """

    levels: dict[str, Verification]
    culprits: tuple[str, ...] = ()
    seconds: float = 0.0
    model: str = ""

    @property
    def equivalent(self) -> bool:
        return bool(self.levels) and all(level.equivalent for level in self.levels.values())

    @property
    def failing_level(self) -> str | None:
        """The lowest level at which the outputs differ."""
        return next((name for name, level in self.levels.items() if level.verdict == DIFFERENT), None)

    def snippet(self) -> str:
        """Python that loads the model so that it computes what it says; empty where nothing is needed."""
        if self.failing_level is None:
            return ""
        path = self.model if self.model.endswith(".onnx") else "model.onnx"
        if self.culprits:
            names = ", ".join(f'"{name}"' for name in self.culprits)
            return (
                "import onnxruntime\n\n"
                f'session = onnxruntime.InferenceSession("{path}", disabled_optimizers=[{names}])\n'
            )
        below = list(LEVELS)[list(LEVELS).index(self.failing_level) - 1]
        return (
            "import onnxruntime\n\n"
            "options = onnxruntime.SessionOptions()\n"
            f"options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.{LEVELS[below]}\n"
            f'session = onnxruntime.InferenceSession("{path}", options)\n'
        )

    def sentence(self) -> str:
        """One line for people."""
        failing = self.failing_level
        if failing is not None:
            blame = f" because of {' and '.join(self.culprits)}" if self.culprits else ""
            return f"onnxruntime changes the outputs at level {failing!r}{blame}: {self.levels[failing].reason}"
        for level in self.levels.values():
            if not level.equivalent:
                return level.sentence()
        names = ", ".join(self.levels)
        return f"onnxruntime keeps the outputs at every optimisation level ({names}), checked in {self.seconds:.1f} s"

    def to_dict(self) -> dict[str, Any]:
        return {
            "equivalent": self.equivalent,
            "sentence": self.sentence(),
            "model": self.model,
            "seconds": self.seconds,
            "levels": {name: level.to_dict() for name, level in self.levels.items()},
            "culprits": list(self.culprits),
            "snippet": self.snippet(),
        }


def check_runtime(model: ModelLike, options: VerifyOptions = DEFAULTS) -> RuntimeCheck:
    """Compare a model with itself under each optimisation level and find the optimizer that changes it.

    Raises what :func:`bnfold.verification.verify` raises.
    """
    with temporary_folder() as folder:
        file = OnnxFile.of(model, folder / "first", "the model")
        found = call(check_file, options.limits(), file, options)
        if isinstance(found, Ended):
            return RuntimeCheck({"all": Verification(NOT_VERIFIED, reason=why_ended(found))}, model=file.name)
        return found.value


def check_file(model: OnnxFile, options: VerifyOptions) -> RuntimeCheck:
    """:func:`check_runtime` for a file, in this process and without limits."""
    started = time.perf_counter()
    levels: dict[str, Verification] = {}
    culprits: tuple[str, ...] = ()
    try:
        reference = Reference(model, options)
    except NotVerifiableError as error:
        return RuntimeCheck({"all": Verification(NOT_VERIFIED, reason=str(error))}, model=model.name)
    # A fixed tolerance asks about nothing but the outputs in the runtime.
    noise = NoiseJudge(options.tolerance)
    judge: Judge = noise if options.tolerance.given or options.strict else AccuracyJudge(noise)
    for level in list(LEVELS)[1:]:
        levels[level] = compare(reference, Candidate(model, level), judge)
    check = RuntimeCheck(levels, model=model.name)
    if check.failing_level is not None:
        culprits = _culprits(reference, check.failing_level, levels[check.failing_level], judge)
    return replace(check, culprits=culprits, seconds=time.perf_counter() - started)


def _culprits(reference: Reference, level: str, found: Verification, judge: Judge) -> tuple[str, ...]:
    """The smallest set of optimizers to disable for the outputs to agree at ``level``; empty if none does."""
    reference = reference.only(worst_feed(found)) if found.outputs else reference

    def cured(disabled: Sequence[str]) -> bool:
        return compare(reference, Candidate(reference.model, level, tuple(disabled)), judge).equivalent

    return minimal(OPTIMIZERS, cured) if cured(OPTIMIZERS) else ()
