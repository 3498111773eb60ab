"""BN301 to BN307: what the numbers in a BatchNormalization give away."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bnfold.analysis.context import Context
from bnfold.analysis.phrases import listed, plural, title
from bnfold.analysis.report import Finding, Severity
from bnfold.analysis.rule import Rule
from bnfold.analysis.statistics import collapsed_channels, dead_channels, faults, is_untrained
from bnfold.folding.plan import Remaining
from bnfold.operators.dialect import dialect_of
from bnfold.operators.patterns import spread_bits

#: Bits of an 8-bit code that per-tensor quantisation may lose before BN305 speaks up.
_SPREAD_LIMIT = 4.0
#: The usual range of epsilon, with room for its rounding to float32 in an ONNX attribute.
_SMALLEST_EPSILON, _LARGEST_EPSILON = 0.999999e-7, 0.1000001
_OVERFLOW = ("overflow", "fp16-overflow")


class UntrainedBatchNorm(Rule):
    """A BatchNormalization still has the parameters it was initialised with.

    ## What it finds
    A BN whose moving mean is 0, moving variance 1, gamma 1 and beta 0 in every channel.

    ## Why it matters
    The first training step changes these numbers, so the layer was never trained: the model was saved or converted
    before its weights were loaded, or the layer is not part of what was trained. At inference it does not normalise.

    ## Example
    ```python
    model = build_model()
    model.save("model.keras")  # load_weights() was forgotten
    ```

    ## Fix
    Train the model, or load its weights before saving or converting it.

    ## Reference
    Keras documentation, `keras.layers.BatchNormalization`: the initialisers of its four weights.
    """

    code = "BN301"
    name = "untrained-bn"
    severity = Severity.WARNING
    message = (
        "{layer} still has the values it was initialised with (mean 0, variance 1, gamma 1, beta 0 in all {count}); "
        "train the model, or load its weights before saving it."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for site in context.sites:
            if site.statistics is not None and is_untrained(site.statistics):
                yield self.finding(
                    context,
                    site.op,
                    values={"channels": site.statistics.channels},
                    count=plural(site.statistics.channels, "channel"),
                )


class InvalidStatistics(Rule):
    """A BatchNormalization has parameters that no training gives: NaN, infinity, or a negative variance.

    ## What it finds
    A NaN or an infinity in gamma, beta, mean or variance, or a variance below zero.

    ## Why it matters
    The output is NaN, or normalised by a number that is not a variance. The training diverged, the file is damaged,
    or a conversion put the vectors in another order.

    ## Example
    ```python
    gamma, beta, mean, variance = bn.get_weights()
    variance.min()  # -0.31
    ```

    ## Fix
    Go back to a checkpoint from before the training diverged, and check the conversion.

    ## Reference
    ONNX operator specification, BatchNormalization.
    """

    code = "BN302"
    name = "invalid-statistics"
    severity = Severity.ERROR
    message = (
        "{layer} has {faults}, which no training gives and which spoils its output; go back to a good checkpoint, or "
        "check the conversion."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for site in context.sites:
            found = faults(site.statistics) if site.statistics is not None else []
            if found:
                yield self.finding(context, site.op, values={"faults": found}, faults=listed(found, shown=4))


class DeadChannels(Rule):
    """Some channels of a BatchNormalization put out a constant.

    ## What it finds
    Channels whose scale, gamma divided by the deviation, is zero or less than a millionth of the layer's largest.

    ## Why it matters
    Whatever goes in, such a channel puts out its beta. The filters that compute it, and the weights that read it, do
    nothing that a bias could not do: they can be pruned.

    ## Example
    ```python
    gamma = bn.get_weights()[0]
    (abs(gamma) < 1e-8).sum()  # 12 of 64, driven there by weight decay
    ```

    ## Fix
    Prune these channels: remove the filters before the BN and, behind it, take the constant into the next bias.

    ## Reference
    Liu et al. 2017, arXiv:1708.06519, which prunes by gamma.
    """

    code = "BN303"
    name = "dead-channels"
    severity = Severity.INFO
    message = (
        "{dead} of {count} of {layer} put out a constant, because their scale is zero or next to it; they and the "
        "filters that compute them could be pruned."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for site in context.sites:
            if site.affine is None or not site.affine.is_finite or site.channels is None:
                continue
            dead = dead_channels(site.affine)
            if dead.any():
                yield self.finding(
                    context,
                    site.op,
                    layer=site.label,
                    values={"dead": int(dead.sum()), "channels": site.channels},
                    count=plural(site.channels, "channel"),
                )


class CollapsedVariance(Rule):
    """Some variances of a BatchNormalization are so small that epsilon decides the scale.

    ## What it finds
    Channels, other than dead ones, whose moving variance is less than a tenth of epsilon.

    ## Why it matters
    What such a channel gets is almost constant: a layer that no longer fires, or data that do not vary. The division
    is by the root of epsilon, a number that nobody trained, and another epsilon after a conversion changes the
    output.

    ## Example
    ```python
    bn.moving_variance.numpy().min()  # 2e-07
    bn.epsilon                        # 0.001
    ```

    ## Fix
    Look at the layer before: inputs that do not vary, or units that died. Keep epsilon the same in a conversion.

    ## Reference
    Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1.
    """

    code = "BN304"
    name = "collapsed-variance"
    severity = Severity.WARNING
    message = (
        "in {collapsed} of {count} of {layer} the variance (as low as {smallest:.2g}) is so far below epsilon "
        "({epsilon:g}) that epsilon decides the scale; look for inputs there that hardly vary."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for site in context.sites:
            bn = site.statistics
            if bn is None or not bn.affine.is_finite:
                continue
            collapsed = collapsed_channels(bn)
            if collapsed.any():
                yield self.finding(
                    context,
                    site.op,
                    values={
                        "collapsed": int(collapsed.sum()),
                        "channels": bn.channels,
                        "smallest": float(bn.variance[collapsed].min()),
                        "epsilon": bn.epsilon,
                    },
                    count=plural(bn.channels, "channel"),
                )


class RangeSpread(Rule):
    """Folding would make the weight ranges of one layer very unequal.

    ## What it finds
    A linear layer into which a BN folds backward, where the fold spreads the largest weights of the output channels
    over a ratio of more than 2^4, and over more than they have now.

    ## Why it matters
    Quantisation to int8 with one scale for the whole tensor has to serve the channel with the largest weights. A
    channel whose weights are 2^n times smaller then has n bits less, and loses accuracy. In floating point nothing
    is lost.

    ## Example
    ```python
    abs(gamma / np.sqrt(variance + epsilon))  # from 0.003 to 41
    ```

    ## Fix
    Quantise the folded weights per channel, or let `bnfold equalize` level the ranges across layers. The finding says
    how many bits that leaves.

    ## Reference
    Nagel et al. 2019, arXiv:1906.04721, sections 3 and 4.1.
    """

    code = "BN305"
    name = "range-spread"
    severity = Severity.INFO
    message = (
        "folding {layer} spreads the weight ranges of {linear} over {after:.1f} bits ({before:.1f} before), which int8 "
        "with one scale for the tensor would lose; quantise it per channel{cure}."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for site in context.sites:
            linear = context.linear_before(site)
            if linear is None or site.affine is None or not site.affine.is_finite:
                continue
            ranges = context.weight_ranges(linear)
            if site.affine.size not in (1, ranges.size):
                continue
            before, after = spread_bits(ranges), spread_bits(ranges * np.abs(site.affine.scale))
            if after > max(_SPREAD_LIMIT, before):
                level = context.spread_equalized(linear)
                values = {
                    "linear": linear.display,
                    "before": round(before, 2),
                    "after": round(after, 2),
                    "equalized": None if level is None else round(level, 2),
                }
                cure = "" if level is None or level >= after else f", or `bnfold equalize` leaves {level:.1f} bits"
                yield self.finding(context, site.op, layer=site.label, values=values, linear=title(linear), cure=cure)


class DtypeOverflow(Rule):
    """The folded weights do not fit the model's type.

    ## What it finds
    A BN whose scale or shift is so large that the weights it would be folded into are not finite, or vanish, in the
    type they are stored in: float16, mostly.

    ## Why it matters
    The BN cannot be folded, and a tool that folds it nevertheless writes a model that computes infinity or NaN. It is
    also a sign of a variance that is next to zero.

    ## Example
    ```python
    weight.max() * gamma / np.sqrt(variance + epsilon)  # 91000.0, where float16 ends at 65504
    ```

    ## Fix
    Keep this layer in float32, or find out why its variance is so small and train again.

    ## Reference
    IEEE 754-2019, binary16.
    """

    code = "BN306"
    name = "dtype-overflow"
    severity = Severity.ERROR
    message = (
        "{layer} cannot be folded, because {reason}; keep that layer in a wider type, or find out why the BN's scale "
        "is so large."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for site in context.sites:
            fate = context.fate(site)
            if isinstance(fate, Remaining):
                refusals = [side for side in (fate.backward, fate.forward) if side.code in _OVERFLOW]
                if refusals:
                    yield self.finding(context, site.op, layer=site.label, reason=refusals[0].sentence)


class UnusualHyperparameters(Rule):
    """A BatchNormalization has an unusual momentum or epsilon.

    ## What it finds
    In a Keras model a momentum below 0.5 or from 1 on; in any model an epsilon below 1e-7 or above 0.1.

    ## Why it matters
    Keras's momentum is the part of the moving statistics that is kept: 0.1, copied from PyTorch where it means the
    opposite, makes them follow the last few batches alone; 1 never updates them. A tiny epsilon divides by next to
    nothing where a channel hardly varies; a large one takes part in every scale.

    ## Example
    ```python
    keras.layers.BatchNormalization(momentum=0.1)  # meant: 0.9
    ```

    ## Fix
    Keras's momentum is 1 minus PyTorch's: 0.9 to 0.99 is usual, and for epsilon 1e-5 to 1e-3. Then train again.

    ## Reference
    Keras documentation, `keras.layers.BatchNormalization`; PyTorch documentation, `torch.nn.BatchNorm2d`.
    """

    code = "BN307"
    name = "unusual-hyperparameters"
    severity = Severity.INFO
    message = "{layer} has {what}; {advice}."

    def check(self, context: Context) -> Iterator[Finding]:
        for site in context.sites:
            if site.statistics is None:
                continue
            epsilon, momentum = site.statistics.epsilon, site.op.attributes.get("momentum")
            if dialect_of(context.graph).trains and momentum is not None and not 0.5 <= float(momentum) < 1.0:
                yield self.finding(
                    context,
                    site.op,
                    values={"momentum": float(momentum)},
                    what=f"a momentum of {float(momentum):g}, the part of the moving statistics that each step keeps",
                    advice="0.9 to 0.99 is usual (PyTorch counts the other way round)",
                )
            if not _SMALLEST_EPSILON <= epsilon <= _LARGEST_EPSILON:
                yield self.finding(
                    context,
                    site.op,
                    values={"epsilon": epsilon},
                    what=f"an epsilon of {epsilon:g}",
                    advice="1e-5 to 1e-3 is usual",
                )
