"""BN401 to BN408: what keeps a model that is to be deployed from being as fast as it could be."""

from __future__ import annotations

from collections.abc import Iterator

from bnfold.analysis.context import Context
from bnfold.analysis.phrases import listed, plural, title
from bnfold.analysis.report import Finding, Repair, Severity
from bnfold.analysis.rule import Rule
from bnfold.folding.plan import FoldKind, Remaining
from bnfold.operators import Role
from bnfold.operators.patterns import enclosed, linear_behind_quantization
from bnfold.refusal import Refusal

_DYNAMIC = ("dynamic-parameters", "overridable")


class TrainingModeBatchNorm(Rule):
    """A BatchNormalization is in training mode inside a model for inference.

    ## What it finds
    An ONNX BN with `training_mode=1`, or whose batch statistics are read; in old opsets one without `is_test`. In
    Keras a BN that was called with `training=True`.

    ## Why it matters
    It normalises each batch with that batch's own mean and variance. The answer for one input then depends on what
    else is in the batch, a batch of one gives nonsense, and nothing can be folded.

    ## Example
    ```python
    torch.onnx.export(model, x, "model.onnx", training=torch.onnx.TrainingMode.TRAINING)
    ```

    ## Fix
    Export the model in inference mode: `model.eval()` in PyTorch, no `training=True` in Keras.

    ## Reference
    ONNX operator specification, BatchNormalization, attribute `training_mode`.
    """

    code = "BN401"
    name = "training-mode-bn"
    severity = Severity.ERROR
    message = (
        "{layer} is in training mode: it normalises with the statistics of each batch, so the answer for one input "
        "depends on the others; export the model in inference mode."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for site in context.sites:
            if isinstance(site.parameters, Refusal) and site.parameters.code == "training-mode":
                yield self.finding(context, site.op)


class UnfoldableBatchNorm(Rule):
    """A BatchNormalization stays in the model after folding.

    ## What it finds
    A BN in inference form that can be folded neither into what computes its input nor into what reads its output,
    with the operator that stands in the way on each side, and that cannot go together with the stream it reads
    either, with the demands that contradict each other.

    ## Why it matters
    It costs a pass over its tensor at inference. A BN between a tensor that others read too and a nonlinearity folds
    with its residual stream, as in pre-activation ResNets; where the others are BN that want something else of the
    tensor, as in DenseNet, one of them has its wish, and no algebra removes the rest. A change of the model may.

    ## Example
    ```python
    x = Concatenate()([x, y])  # x goes to the next block as well
    x = ReLU()(BatchNormalization()(x))
    ```

    ## Fix
    Read the reasons. Common ones that a retrained model can avoid: a convolution with zero padding behind a BN,
    and an activation between the linear layer and its BN.

    ## Reference
    Huang et al. 2017, arXiv:1608.06993, for the case above.
    """

    code = "BN402"
    name = "unfoldable-bn"
    severity = Severity.INFO
    message = "{layer} stays after folding: backward, {backward}; forward, {forward}{together}."

    def check(self, context: Context) -> Iterator[Finding]:
        for site in context.sites:
            fate = context.fate(site)
            if isinstance(fate, Remaining) and not context.is_replaced(site):
                yield self.finding(
                    context,
                    site.op,
                    layer=site.label,
                    values={
                        "backward": fate.backward.to_dict(),
                        "forward": fate.forward.to_dict(),
                        "together": None if fate.together is None else fate.together.to_dict(),
                    },
                    backward=fate.backward.sentence,
                    forward=fate.forward.sentence,
                    together="" if fate.together is None else f"; with its stream, {fate.together.sentence}",
                )


class OverridableConstants(Rule):
    """The weights of the model are also its inputs.

    ## What it finds
    Initializers of an ONNX graph that are listed among the graph's inputs too.

    ## Why it matters
    From IR version 4 on that means that a caller may replace them, so no runtime may treat them as constants: nothing
    is folded, fused or packed ahead. A published face detector was measured to run several times slower for it.
    Exporters before 2019 had to list them; few models mean it.

    ## Example
    ```python
    len(model.graph.input)  # 245: the image and 244 weights
    ```

    ## Fix
    `bnfold fix` takes them off the inputs, and so does `bnfold fold`.

    ## Reference
    ONNX specification, IR.md, section on graph inputs and initializers.
    """

    code = "BN403"
    name = "overridable-constants"
    severity = Severity.WARNING
    repair = Repair.FIX
    message = (
        "{count} are also inputs of the model, such as {example}, so no runtime may treat them as constants, and most "
        "of its optimisations are lost; `bnfold fix` takes them off the inputs."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        names = [name for name in context.graph.params if name in context.graph.overridable]
        if names:
            yield self.finding(
                context,
                None,
                values={"constants": len(names), "example": names[0]},
                count=plural(len(names), "weight"),
            )


class DecomposedBatchNorm(Rule):
    """A BatchNormalization was exported as elementwise arithmetic.

    ## What it finds
    A run of Mul, Add, Sub or Div by constants that is a scale and a shift for each channel, as converters write a BN
    behind a dense layer. A lone bias, and the scale and shift of a layer normalisation, do not count.

    ## Why it matters
    It is a BN in all but name: it costs two passes or more over its tensor, and tools that look for the operator
    BatchNormalization neither count it nor fold it.

    ## Example
    ```text
    MatMul → Add → Mul [64] → Add [64] → Relu
    ```

    ## Fix
    None is needed: bnfold reads it as a BN, and `bnfold fold` folds it.

    ## Reference
    ONNX operator specification, Mul and Add.
    """

    code = "BN404"
    name = "decomposed-bn"
    severity = Severity.INFO
    repair = Repair.FOLD
    message = (
        "{layer} are together one BN of {channels} channels, written as {types}; bnfold treats them as one, and it "
        "{fold}."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for site in context.sites:
            if site.decomposed:
                fold = context.foldability(site)
                yield self.finding(
                    context,
                    site.op,
                    layer=site.label,
                    repair=Repair.FOLD if fold.folds else Repair.NONE,
                    values={"operators": [op.display for op in site.ops], "channels": site.channels},
                    types=listed([op.type for op in site.ops], shown=6),
                    fold=fold.clause(),
                )


class UnmergedBranches(Rule):
    """Parallel linear branches are shipped in the form they were trained in.

    ## What it finds
    Convolutions, and identities with a BN, that read one tensor and are added up, so that one convolution computes
    the same: the blocks of RepVGG, MobileOne, ACNet and their like. Also a 1 × 1 convolution directly before another
    convolution that can take it in for fewer multiplications.

    ## Why it matters
    The branches help training alone. At inference each of them costs a pass over the tensor and an addition; merged
    into one convolution the network is the one that its paper deploys.

    ## Example
    ```python
    y = bn3(conv3x3(x)) + bn1(conv1x1(x)) + bn0(x)
    ```

    ## Fix
    `bnfold fold` merges them.

    ## Reference
    Ding et al. 2021, arXiv:2101.03697.
    """

    code = "BN405"
    name = "unmerged-branches"
    severity = Severity.INFO
    repair = Repair.FOLD
    message = "{branches} are {relation} that one convolution can compute; `bnfold fold` merges them into {into}."

    def check(self, context: Context) -> Iterator[Finding]:
        names = {context.key(op): op for op in context.graph.ops()}
        for step in context.plan.steps:
            if step.kind not in (FoldKind.BRANCH, FoldKind.SERIES) or step.scope != context.scope:
                continue
            gone = [names[key] for key in (step.subject, *step.removed) if key in names]
            parts = [op.display for op in gone if op.name in context.flow.layouts or op.name in context.by_operator]
            branches = list(dict.fromkeys((*parts, *step.into)))
            if gone:
                yield self.finding(
                    context,
                    gone[0],
                    values={"branches": branches, "into": list(step.into)},
                    branches=listed(branches),
                    relation="parallel linear branches" if step.kind is FoldKind.BRANCH else "linear layers in a row",
                    into=listed(step.into),
                )


class DynamicParameters(Rule):
    """A BatchNormalization gets its parameters at run time.

    ## What it finds
    A BN whose gamma, beta, mean or variance is computed from something that is fed to the model, or is a plain input
    of it.

    ## Why it matters
    Numbers that are not known before the model runs cannot be folded into weights. It is right for conditional BN;
    otherwise an export left a computation in the graph that could have been a constant.

    ## Example
    ```text
    label → Gather(gammas) → BatchNormalization.scale
    ```

    ## Fix
    Where the parameters do not depend on the input, make them initializers when exporting.

    ## Reference
    de Vries et al. 2017, arXiv:1707.00683, for conditional BN.
    """

    code = "BN406"
    name = "dynamic-parameters"
    severity = Severity.INFO
    message = (
        "{reason}, so it cannot be folded; if its parameters do not depend on the input, make them constants when "
        "exporting."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for site in context.sites:
            if isinstance(site.parameters, Refusal) and site.parameters.code in _DYNAMIC:
                yield self.finding(context, site.op, reason=site.parameters.sentence)


class EnclosedBatchNorm(Rule):
    """A BatchNormalization stands inside of a layer that is not looked into.

    ## What it finds
    A layer of a Keras model that holds a BN among its own layers: a custom one, a wrapper, or a model with a `call` of
    its own. What such a layer computes stands in its code and not in the graph of layers.

    ## Why it matters
    The other rules say nothing about that BN, and `bnfold fold` leaves it where it is.

    ## Example
    ```python
    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.conv = keras.layers.Conv2D(32, 3)
            self.bn = keras.layers.BatchNormalization()

        def call(self, x):
            return self.bn(self.conv(x))
    ```

    ## Fix
    For deployment, fold into ONNX (`bnfold fold model.keras -o model.onnx`): the conversion takes layers apart. To have
    the BN folded and checked in Keras, build blocks by functions that call layers, or as nested functional models.

    ## Reference
    Keras documentation, "The Functional API".
    """

    code = "BN407"
    name = "enclosed-bn"
    severity = Severity.INFO
    message = (
        "{where} ({kind}) holds BatchNormalization of its own, which is not looked into: it is neither checked nor "
        "folded; folded into ONNX the layer is taken apart."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for op in context.graph.ops():
            if enclosed(op, Role.BATCHNORM):
                yield self.finding(context, op, where=title(op), kind=op.type)


class QuantizedBeforeFolding(Rule):
    """A model was quantised with a BatchNormalization that belonged folded first.

    ## What it finds
    In a model that is quantised already, a BN that stays although it reads a linear layer and nobody else does: the
    layer's output is rounded to integers before the BN, or its weights and output are integers themselves.

    ## Why it matters
    Nothing folds across a rounding. The BN is left to run between two of them, in float or as integers once more: it
    costs a pass over the tensor, keeps the runtime from fusing the layer with its activation, and adds the error of
    a rounding that the folded model does not have.

    ## Example
    ```text
    Conv → QuantizeLinear → DequantizeLinear → BatchNormalization → QuantizeLinear → DequantizeLinear → Relu
    ```

    ## Fix
    Go back to the float model: `bnfold fold model.onnx -o folded.onnx`, then quantise `folded.onnx`. `bnfold equalize`
    in the place of `fold` levels the weight ranges as well.

    ## Reference
    Jacob et al. 2018, arXiv:1712.05877, section 3.2; onnxruntime documentation, "Quantize ONNX models",
    pre-processing.
    """

    code = "BN408"
    name = "quantized-before-folding"
    severity = Severity.WARNING
    message = (
        "{layer} was not folded into {linear} before the model was quantised, and now it cannot be; fold the float "
        "model (`bnfold fold`), and quantise what that writes."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for site in context.sites:
            if site.affine is not None and isinstance(context.fate(site), Remaining):
                linear = linear_behind_quantization(context.graph, site.tensor)
                if linear is not None:
                    yield self.finding(
                        context, site.op, layer=site.label, values={"into": linear.display}, linear=title(linear)
                    )
