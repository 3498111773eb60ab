"""BN101 to BN106 and BN110: where a BatchNormalization stands among activations, dropout, inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator

from bnfold.analysis.context import Context
from bnfold.analysis.flow import ChannelAxis, Kind
from bnfold.analysis.phrases import listed, title
from bnfold.analysis.placement import Placement, is_branch
from bnfold.analysis.report import Finding, Repair, Severity
from bnfold.analysis.rule import Rule
from bnfold.analysis.sites import Site
from bnfold.operators import Role
from bnfold.operators.dialect import dialect_of
from bnfold.operators.patterns import enclosed, is_lookup


class BatchNormAfterActivation(Rule):
    """A BatchNormalization normalises the output of a nonlinearity.

    ## What it finds
    A BN whose input is the output of an activation, directly or through pooling, dropout and reshapes. The identity
    branch of a RepVGG block, which runs beside convolutions that read the same tensor, does not count, nor does the
    first BN of a pre-activation block.

    ## Why it matters
    The paper that introduced BN put it before the activation. Either order trains: a benchmark on CaffeNet measured
    0.499 top-1 accuracy with the BN after the ReLU and 0.474 with it before. The order decides how the BN can be
    removed for inference: before the activation it folds into the layer in front of it; after the activation only
    into the layers behind it, and not at all where one of them pads with zeros and the shift is not zero.

    ## Example
    ```python
    x = keras.layers.Conv2D(32, 3, activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    ```

    ## Fix
    None is needed. To make the BN fold backward, build the convolution without an activation and put the activation
    after the BN.

    ## Reference
    Ioffe and Szegedy 2015, arXiv:1502.03167; Mishkin, caffenet-benchmark, batchnorm.md (the accuracies).
    """

    code = "BN101"
    name = "bn-after-activation"
    severity = Severity.INFO
    message = (
        "{layer} normalises the output of the nonlinearity {activation}, so it cannot fold into the layer before that; "
        "{fold}."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for site, placement in context.placements:
            origin = context.flow.origin.get(site.tensor)
            elsewhere = placement is Placement.PRE_ACTIVATION or is_branch(context.graph, site)
            if origin is None or origin.kind is not Kind.ACTIVATION or elsewhere:
                continue
            fold = context.foldability(site)
            repair = Repair.FOLD if fold.folds else Repair.NONE
            yield self.finding(
                context,
                site.op,
                layer=site.label,
                repair=repair,
                values={"activation": context.graph.op(origin.op).display},
                activation=title(context.graph.op(origin.op)),
                fold=f"as the model stands, it {fold.clause()}",
            )


class BatchNormBeforeOutput(Rule):
    """A BatchNormalization is the last thing before the model's answer.

    ## What it finds
    A BN whose output goes, with nothing but reshapes or dropout between, to the final softmax or sigmoid or is the
    model's output itself. A BN whose output is returned and used inside the model as well does not count.

    ## Why it matters
    The last layer has to be free to answer as its examples are. A BN there gives every score the mean beta and the
    deviation gamma over each batch, however clear or unclear the examples in it, and in training it makes one
    answer depend on the other examples of the batch.

    ## Example
    ```python
    keras.Sequential([..., keras.layers.Dense(2), keras.layers.BatchNormalization(), keras.layers.Softmax()])
    ```

    ## Fix
    End the model with the linear layer, with its bias, and train again. For inference alone `bnfold fold` takes the
    BN into that layer.

    ## Reference
    Ioffe and Szegedy 2015, arXiv:1502.03167.
    """

    code = "BN102"
    name = "bn-before-output"
    severity = Severity.WARNING
    message = (
        "{layer} stands directly before {end}, where it ties every score to the statistics of a batch; let the last "
        "linear layer, with its bias, end the model."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for site in context.sites:
            end = context.flow.final.get(site.output)
            if end is not None:
                where = f"the last activation, {title(context.graph.op(end))}" if end in context.graph else end
                yield self.finding(context, site.op, layer=site.label, end=where)


class DropoutBeforeBatchNorm(Rule):
    """Dropout upstream of a BatchNormalization.

    ## What it finds
    A Dropout from which a BN can be reached without passing another BN. With no linear layer between the two it is a
    warning, otherwise information. A Dropout with a rate of zero does not count.

    ## Why it matters
    Dropout raises the variance of what follows in training and not at inference, while the BN stores the variance
    that it saw in training. At inference it then divides by the wrong number. The nearer the two stand, the larger
    the shift; a wide linear layer between them averages part of it out.

    ## Example
    ```python
    x = keras.layers.Dropout(0.5)(x)
    x = keras.layers.BatchNormalization()(x)
    ```

    ## Fix
    Move the Dropout behind the last BN of the model, or drop it: BN regularises as well. Then train again.

    ## Reference
    Li, Chen, Hu and Yang 2018, arXiv:1801.05134.
    """

    code = "BN103"
    name = "dropout-before-bn"
    severity = Severity.WARNING
    message = (
        "{layer} gets the output of {dropout} with no linear layer between, so the variance it stored in training is "
        "not the variance at inference; move the dropout behind the last BN."
    )
    distant = (
        "{dropout} stands before {layer}, with a linear layer between, so the variance stored in training is a little "
        "off at inference; if evaluation is worse than training, move the dropout behind the last BN."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for site in context.sites:
            dropped = context.flow.dropped.get(site.tensor)
            if dropped is None:
                continue
            yield self.finding(
                context,
                site.op,
                layer=site.label,
                template="" if dropped.direct else self.distant,
                severity=None if dropped.direct else Severity.INFO,
                values={"dropout": context.graph.op(dropped.op).display},
                dropout=title(context.graph.op(dropped.op)),
            )


class MixedPlacement(Rule):
    """One model normalises before the activation in some places and after it in others.

    ## What it finds
    Among the BN of one graph, some that stand before an activation and some that stand after one. BN on the input,
    before the output or between linear layers count as neither.

    ## Why it matters
    It is more often an oversight than a decision, and the two kinds fold differently: those before the activation
    into the layer in front of them, those after it into what follows, if that can take them.

    ## Example
    ```python
    x = Activation("elu")(BatchNormalization()(Dense(300, use_bias=False)(x)))
    x = BatchNormalization()(Activation("elu")(Dense(100)(x)))
    ```

    ## Fix
    Choose one order for all blocks, unless the difference is meant.

    ## Reference
    Ioffe and Szegedy 2015, arXiv:1502.03167.
    """

    code = "BN104"
    name = "mixed-placement"
    severity = Severity.INFO
    message = (
        "this model normalises before the activation in {before} {places_before} and after it in {after}; unless that "
        "is meant, bring the minority, {minority}, into line with the rest."
    )
    balanced = (
        "this model normalises before the activation in {before} {places_before} ({early}) and after it in {after} "
        "({late}); unless that is meant, use one order throughout."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        early = [s for s, kind in context.placements if kind in (Placement.BEFORE_ACTIVATION, Placement.PRE_ACTIVATION)]
        late = [site for site, kind in context.placements if kind is Placement.AFTER_ACTIVATION]
        if not early or not late:
            return
        minority = min(late, early, key=len)
        tie = len(late) == len(early)
        yield self.finding(
            context,
            None if tie else minority[0].op,
            layer="" if tie else minority[0].label,
            template=self.balanced if tie else "",
            values={"before": len(early), "after": len(late), "layers": [] if tie else [s.label for s in minority]},
            places_before="place" if len(early) == 1 else "places",
            minority=listed([site.title for site in minority]),
            early=listed([site.title for site in early]),
            late=listed([site.title for site in late]),
        )


class BatchNormOnInput(Rule):
    """A BatchNormalization is the first layer of the model.

    ## What it finds
    A BN that a model input reaches through nothing but reshapes, dropout and fixed scaling.

    ## Why it matters
    It acts as an input normaliser whose mean and variance are learned from the training batches. That is a
    convenience, not a fault; at inference it costs a pass over the input unless it folds into the first layer, which
    a convolution that pads with zeros cannot take.

    ## Example
    ```python
    keras.Sequential([keras.Input((28, 28)), Flatten(), BatchNormalization(), Dense(300), ...])
    ```

    ## Fix
    None is needed. Normalising the data once, or a Normalization layer adapted to the training data, does the same.

    ## Reference
    Keras documentation, `keras.layers.Normalization`.
    """

    code = "BN105"
    name = "bn-on-input"
    severity = Severity.INFO
    message = "{layer} is the first layer and normalises the model's input; for inference it {fold}."

    def check(self, context: Context) -> Iterator[Finding]:
        for site, placement in context.placements:
            if placement is Placement.ON_INPUT:
                fold = context.foldability(site)
                repair = Repair.FOLD if fold.folds else Repair.NONE
                yield self.finding(context, site.op, layer=site.label, repair=repair, fold=fold.clause())


class AxisNotChannels(Rule):
    """A BatchNormalization normalises along another axis than the channels.

    ## What it finds
    A BN whose axis is not the channel axis of the linear layer that feeds it or, on the model's input, of the layer
    that reads it: the default `axis=-1` behind a `channels_first` convolution, for instance. And a BN on an input of
    two dimensions that is flattened afterwards: it keeps one mean for each column (or row) and not for each value.

    ## Why it matters
    The statistics then mix all channels and tell apart positions that the layer treats alike. The model trains, only
    worse, and nothing folds, because no layer has weights along that axis.

    ## Example
    ```python
    x = keras.layers.Conv2D(32, 3, data_format="channels_first")(x)
    x = keras.layers.BatchNormalization()(x)  # axis=-1 is the width here
    ```

    ## Fix
    Pass `axis=1` for `channels_first`, or put the Flatten before the BN where every value has statistics of its own.
    Then train again.

    ## Reference
    Keras documentation, `keras.layers.BatchNormalization`, argument `axis`.
    """

    code = "BN106"
    name = "bn-axis-not-channels"
    severity = Severity.ERROR
    message = (
        "{layer} normalises axis {axis}, but {other} has its channels on axis {expected}; build it with "
        "axis={expected} and train again."
    )
    flattened = (
        "{layer} keeps {channels} means for inputs of {height} × {width}, one {line}, because it stands before "
        "{flatten}; put it behind {flatten} (or, in older Keras, pass axis=[1, 2]) to treat the {count} values apart."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for site in context.sites:
            if site.axis is None or site.decomposed:
                continue
            wanted = self._channels(context, site)
            if wanted is None:
                yield from self._before_flatten(context, site)
            elif wanted.axis != site.axis:
                yield self.finding(
                    context,
                    site.op,
                    values={"axis": site.axis, "expected": wanted.axis},
                    other=title(context.graph.op(wanted.op)),
                )

    @staticmethod
    def _channels(context: Context, site: Site) -> ChannelAxis | None:
        """The channel axis that the layers around give the tensor, the one before it first."""
        return context.flow.channels_from.get(site.tensor) or context.flow.channels_for.get(site.output)

    def _before_flatten(self, context: Context, site: Site) -> Iterator[Finding]:
        origin = context.flow.origin.get(site.tensor)
        flatten = context.flow.flattened.get(site.output)
        shape = context.graph.tensor(site.tensor).shape
        if origin is None or origin.kind is not Kind.INPUT or flatten is None or shape is None or len(shape) != 3:
            return
        height, width = shape[1:]
        if not isinstance(height, int) or not isinstance(width, int) or min(height, width) < 2:
            return
        yield self.finding(
            context,
            site.op,
            template=self.flattened,
            values={"axis": site.axis, "channels": site.channels, "height": height, "width": width},
            line="a column" if site.axis == 2 else "a row",
            flatten=title(context.graph.op(flatten)),
            count=height * width,
        )


class NoBatchNorm(Rule):
    """The model has no BatchNormalization.

    ## What it finds
    A model in which no BN stands, neither as an operator, nor taken apart into Mul and Add, nor inside of a layer.

    ## Why it matters
    Nothing is wrong with such a model. But a BN that was created and never added to the model, or never called on a
    tensor that leads to an output, is not part of it: it was not trained and does nothing, and no error says so.

    ## Example
    ```python
    x = keras.layers.Dense(64)(x)
    bn = keras.layers.BatchNormalization()  # never called
    x = keras.layers.Activation("tanh")(x)
    ```

    ## Fix
    Where a BN was meant, call it on the output of a layer and go on with what it returns, or `add` it to a Sequential
    model. A model that `bnfold fold` wrote needs none.

    ## Reference
    Keras documentation, `keras.layers.BatchNormalization`.
    """

    code = "BN110"
    name = "no-batchnorm"
    severity = Severity.INFO
    message = (
        "no BatchNormalization in this model: a layer that was created counts only once it is added to the model, or "
        "called on a tensor that leads to an output{example}."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        held = any(enclosed(op, Role.BATCHNORM) for op in context.graph.ops())
        if context.scope or held or any(other.sites for other in context.everywhere):
            return
        layer, line = self._example(context)
        yield self.finding(
            context,
            None,
            values={"line": line},
            example=f"; behind {layer} the line is `{line}`" if line else "",
        )

    @staticmethod
    def _example(context: Context) -> tuple[str, str]:
        """A linear layer, one before the last if there is one, and the code that puts a BN behind it."""
        graph, flow = context.graph, context.flow
        layers = [op for op in context.linear_layers() if not is_lookup(op) and flow.layouts[op.name].out_axis]
        inner = [op for op in layers if op.outputs[0] not in flow.final]
        for op in inner or layers:
            layout, rank = flow.layouts[op.name], graph.rank(op.outputs[0])
            assert layout.out_axis is not None
            line = dialect_of(graph).batchnorm_code(op.display, layout.out_axis, rank, layout.out_channels)
            if line:
                return title(op), line
        return "", ""
