"""BN201 to BN204: parameters that do nothing beside a BatchNormalization, and one that is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from bnfold.analysis.context import Context
from bnfold.analysis.flow import readers_beyond
from bnfold.analysis.phrases import listed, plural, title
from bnfold.analysis.report import Finding, Repair, Severity
from bnfold.analysis.rule import Rule
from bnfold.analysis.sites import MEAN_SLOT, Bias, Site, bias_of
from bnfold.graph import Op
from bnfold.operators import Node, Role, facts_of
from bnfold.operators.dialect import dialect_of
from bnfold.operators.patterns import can_drop_bias, has_bias_input, is_lookup, passes_scale, sole_reader


class RedundantBias(Rule):
    """A linear layer has a bias that the BatchNormalization behind it takes away again.

    ## What it finds
    A linear layer with a bias whose only reader is a BN along the layer's channels. A layer with a fused activation
    does not count, since its bias acts before the activation, nor does one whose weights are used elsewhere too. A BN
    that does nothing (BN204) takes no bias away.

    ## Why it matters
    BN subtracts the mean of each channel, and a bias is a part of that mean: BN(Wx + b) = BN(Wx). The bias gets no
    gradient, and its parameters are stored and loaded for nothing. The BN's own beta does its work.

    ## Example
    ```python
    x = keras.layers.Conv2D(64, 3)(x)  # use_bias=True is the default
    x = keras.layers.BatchNormalization()(x)
    ```

    ## Fix
    Build the layer with `use_bias=False`. In a trained model `bnfold fix` takes the bias into the BN's moving mean,
    which leaves every output and all further training as they were.

    ## Reference
    Ioffe and Szegedy 2015, arXiv:1502.03167, section 3.2.
    """

    code = "BN201"
    name = "redundant-bias"
    severity = Severity.WARNING
    repair = Repair.FIX
    message = (
        "{layer} has a bias of {count} that {batchnorm} takes away again; build it with {keyword}=False, or let "
        "`bnfold fix` take the bias into the moving mean."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        keyword = dialect_of(context.graph).bias_argument
        for group in redundant_biases(context):
            op, bias, site = group[0]
            droppable = can_drop_bias(context.graph, op)
            yield self.finding(
                context,
                op,
                repair=Repair.FIX if droppable else Repair.FOLD,
                values={"parameters": bias.param.size, "batchnorm": site.label},
                batchnorm=site.title,
                count=plural(bias.param.size, "parameter"),
                keyword=keyword,
            )


def redundant_biases(context: Context) -> Iterator[list[tuple[Op, Bias, Site]]]:
    """Biases that a BN cancels: for each bias, its linear operators and the BN behind each of them.

    There is more than one for a layer that is called several times. A BN that several biases reach
    cancels none of them: its mean is that of a mixture. Nor does one that does nothing.
    """
    graph, flow = context.graph, context.flow
    users: Counter[str] = Counter()
    cancelled: dict[str, list[tuple[Op, Bias, Site]]] = {}
    biases_of: dict[str, set[str]] = {}
    for op in context.linear_layers():
        bias = bias_of(graph, flow, op)
        if bias is None:
            continue
        users[bias.param.name] += 1
        reader = sole_reader(graph, bias.output)
        site = context.by_operator.get(reader.name) if reader is not None else None
        layout = flow.layouts[op.name]
        if site is None or site.statistics is None or site.axis != layout.out_axis:
            continue
        if is_identity(context, site):
            continue  # BN204 removes that BN, and the bias is all that is left
        if bias.param.size in (1, layout.out_channels):
            cancelled.setdefault(bias.param.name, []).append((op, bias, site))
            biases_of.setdefault(_mean(site), set()).add(bias.param.name)
    for name, group in cancelled.items():
        one_layer = len({op.origin or op.name for op, _, _ in group}) == 1
        alone = all(biases_of[_mean(site)] == {name} for _, _, site in group)
        if len(group) == users[name] and one_layer and alone:
            yield group


def _mean(site: Site) -> str:
    """The tensor that holds a BN's moving mean."""
    return site.op.input(MEAN_SLOT)


class MissingBias(Rule):
    """A linear layer was built without a bias, but no BatchNormalization makes up for it.

    ## What it finds
    In a model with BN, a linear layer without a bias whose output reaches an activation or the model's output before
    a BN, or another layer's bias, could supply the missing constant.

    ## Why it matters
    `use_bias=False` is free only where a BN follows directly: its beta is the bias then. With an activation between
    the two, the layer has lost the ability to shift its channels before the nonlinearity. This happens when a BN is
    moved behind the activation and the layer is left as it was.

    ## Example
    ```python
    x = Dense(100, use_bias=False)(x)
    x = BatchNormalization()(Activation("elu")(x))
    ```

    ## Fix
    Build the layer with its bias, or put the BN before the activation. Then train again.

    ## Reference
    Ioffe and Szegedy 2015, arXiv:1502.03167, section 3.2.
    """

    code = "BN202"
    name = "missing-bias"
    severity = Severity.WARNING
    message = (
        "{layer} has no bias, and {instead}, so its {channels} channels cannot be shifted; give it a bias "
        "({keyword}=True) or put a BN directly behind it."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        if not context.sites:
            return
        keyword = dialect_of(context.graph).bias_argument
        for op in context.linear_layers():
            output = op.outputs[0]
            missing = bias_of(context.graph, context.flow, op) is None and not has_bias_input(op) and not is_lookup(op)
            if missing and not context.flow.absorbs_bias.get(output, True):
                yield self.finding(
                    context,
                    op,
                    values={"channels": context.flow.layouts[op.name].out_channels},
                    instead=self._instead(context, output),
                    keyword=keyword,
                )

    @staticmethod
    def _instead(context: Context, output: str) -> str:
        readers = readers_beyond(context.graph, context.flow, output, (Role.SHAPE, Role.POOL, Role.DROPOUT))
        activations = [title(op) for op in readers or () if context.is_role(op, Role.ACTIVATION)]
        if activations:
            return f"the activation {activations[0]} comes before any BN"
        return "no BN follows"


class RedundantScale(Rule):
    """A BatchNormalization has a gamma that the next linear layer can hold in its own weights.

    ## What it finds
    A BN with a scale whose output only linear layers read, directly or behind a ReLU, dropout or pooling that a
    positive scale passes. A Flatten between is not looked through: the next layer then has several weights for each
    channel.

    ## Why it matters
    Scaling the channels before a linear layer is the same as scaling its weights, and a ReLU lets a positive scale
    through, so gamma adds no expressive power there, only parameters.

    ## Example
    ```python
    x = BatchNormalization()(Conv2D(32, 3, use_bias=False)(x))
    x = Conv2D(32, 3)(ReLU()(x))
    ```

    ## Fix
    `BatchNormalization(scale=False)` in the next model. It makes training a little cheaper and inference, once the BN
    is folded, no different.

    ## Reference
    Keras documentation, `keras.layers.BatchNormalization`, argument `scale`.
    """

    code = "BN203"
    name = "redundant-scale"
    severity = Severity.INFO
    message = (
        "the {count} of {layer} can be left out (scale=False), because {readers} can hold them in {their} own "
        "weights{relu}."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for site in context.sites:
            if site.statistics is None or not self._has_scale(site) or is_identity(context, site):
                continue
            readers, behind_relu = self._linear_readers(context, site)
            if not readers:
                continue
            names = [op.display for op in readers]
            yield self.finding(
                context,
                site.op,
                layer=site.label,
                values={"channels": site.channels, "readers": names},
                count=plural(site.statistics.channels, "scale"),
                readers=listed([title(op) for op in readers]),
                their="its" if len(names) == 1 else "their",
                relu=", and a ReLU between does not matter" if behind_relu else "",
            )

    @staticmethod
    def _has_scale(site: Site) -> bool:
        """A Keras layer says so; in ONNX a gamma of ones stands for none."""
        declared = site.op.attributes.get("scale")
        if declared is not None:
            return bool(declared)
        return site.statistics is not None and bool((site.statistics.gamma != 1).any())

    @staticmethod
    def _linear_readers(context: Context, site: Site) -> tuple[list[Op], bool]:
        """The linear layers that alone read the BN, and whether a ReLU stands between."""
        passing = (Role.DROPOUT, Role.POOL)
        readers = readers_beyond(context.graph, context.flow, site.output, passing) or []
        behind_relu = False
        if (
            len(readers) == 1
            and context.is_role(readers[0], Role.ACTIVATION)
            and passes_scale(context.graph, readers[0])
        ):
            behind_relu = True
            readers = readers_beyond(context.graph, context.flow, readers[0].outputs[0], passing) or []
        linear = all(op.name in context.flow.layouts for op in readers)
        along = all(context.flow.layouts[op.name].in_axis == site.axis for op in readers) if linear else False
        return (readers if along else []), behind_relu


class IdentityBatchNorm(Rule):
    """A BatchNormalization does nothing.

    ## What it finds
    A BN with gamma equal to the square root of variance + epsilon and beta equal to the mean, to the rounding of
    their type, in every channel.

    ## Why it matters
    Its output is its input. At inference it costs a pass over the tensor and four vectors of parameters.

    ## Example
    ```python
    bn.set_weights([np.sqrt(variance + bn.epsilon), mean, mean, variance])
    ```

    ## Fix
    Remove it; `bnfold fix` and `bnfold fold` do.

    ## Reference
    Ioffe and Szegedy 2015, arXiv:1502.03167, section 3, where this very setting undoes the normalisation.
    """

    code = "BN204"
    name = "identity-bn"
    severity = Severity.WARNING
    repair = Repair.FIX
    message = (
        "{layer} does nothing: gamma undoes the division by the deviation and beta the subtraction of the mean in all "
        "{channels} channels; remove it, or let `bnfold fix` do so."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for site in identity_sites(context):
            yield self.finding(context, site.op, values={"channels": site.channels})


def identity_sites(context: Context) -> Iterator[Site]:
    """The BN that do nothing."""
    return (site for site in context.sites if is_identity(context, site))


def is_identity(context: Context, site: Site) -> bool:
    """Does a BN with constant statistics do nothing?"""
    return site.statistics is not None and facts_of(site.op).is_identity(Node(context.graph, site.op))
