"""Restyling Keras models of every build: what is put where, what stays alone, and that the outputs stay."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import Input, Model, Sequential, layers
from keras_folding import assert_same, functional
from keras_models import feeds, randomised, read

import bnfold
from bnfold.errors import NotEquivalentError, UsageError
from bnfold.restyling import restyle_graph, style_of


def names(model: keras.Model) -> list[str]:
    return [layer.name for layer in model.layers if not isinstance(layer, layers.InputLayer)]


def restyled(model: keras.Model, norm: str = "before", **options: Any) -> keras.Model:
    """The model in another style; every change is exact, so the outputs are compared."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", bnfold.BnfoldWarning)
        result = bnfold.restyle(model, norm, **options)
    assert_same(model, result, feeds(read(model)))
    return result


def mlp(*, dropout: bool = False, **options: Any) -> keras.Model:
    between = [layers.Dropout(0.5, name="drop")] if dropout else []
    return randomised(
        Sequential(
            [
                Input((6,), name="x"),
                layers.Dense(8, activation="elu", name="first", **options),
                *between,
                layers.Dense(5, activation="elu", name="second", **options),
                layers.Dense(3, name="last", **options),
            ]
        )
    )


def left(model: keras.Model, norm: str = "before") -> dict[str, str]:
    """The layers that get no BN, and why."""
    return {item.layer: item.reason for item in restyle_graph(read(model).trainable.graph, style_of(norm)).left}


class TestChoice:
    def test_only(self) -> None:
        assert names(restyled(mlp(), only=["sec*"])) == ["first", "second", "second_bn", "second_activation", "last"]

    def test_except(self) -> None:
        assert names(restyled(mlp(), exempt=["sec*"])) == ["first", "first_bn", "first_activation", "second", "last"]

    def test_a_pattern_that_fits_nothing(self) -> None:
        with pytest.raises(UsageError, match="no layer of the model has a name like 'conv\\*'"):
            bnfold.restyle(mlp(), only=["conv*"])

    def test_on_input(self) -> None:
        result = restyled(mlp(), "none", on_input=True)
        assert names(result) == ["x_bn", "first", "second", "last"]
        again = restyled(result, "none", on_input=True)
        assert names(again) == names(result)
        assert names(restyled(result, "none")) == ["first", "second", "last"]

    def test_on_input_follows_the_data_format(self) -> None:
        model = functional((3, 8, 8), layers.ZeroPadding2D(1, data_format="channels_first"))
        assert bnfold.restyle(model, "none", on_input=True).layers[1].axis == 3
        model = functional((3, 8, 8), layers.Conv2D(2, 3, data_format="channels_first"))
        assert bnfold.restyle(model, "none", on_input=True).layers[1].axis == 1

    def test_integers_are_not_normalised(self) -> None:
        model = functional((4,), layers.Embedding(10, 3), dtype="int32")
        assert names(restyled(model, "none", on_input=True)) == names(model)

    def test_words_that_are_none(self) -> None:
        for options, words in (
            ({"norm": "both"}, "norm is before, after or none, not 'both'"),
            ({"bias": "no"}, "bias is auto or keep"),
            ({"weights": "new"}, "weights is keep or fresh"),
            ({"momentum": 2.0}, "momentum is a number from 0 to 1"),
            ({"epsilon": -1.0}, "epsilon is a small positive number"),
        ):
            with pytest.raises(UsageError, match=words):
                bnfold.restyle(mlp(), **options)  # type: ignore[arg-type]

    def test_an_onnx_model_is_refused(self) -> None:
        sample = Path(__file__).parents[2] / "sample_models" / "digits_mlp.onnx"
        with pytest.raises(UsageError, match="is no Keras model of layers"):
            bnfold.restyle(sample)


class TestWhereNoneGoes:
    def test_behind_the_last_layer_of_each_output(self) -> None:
        x = Input((6,), name="x")
        y = layers.Dense(8, activation="relu", name="trunk")(x)
        outputs = [
            layers.Dense(2, activation="softmax", name="classes")(y),
            layers.Dense(1, activation="tanh", name="value")(y),
        ]
        model = randomised(Model(x, outputs))
        assert set(left(model)) == {"classes", "value"}
        assert names(restyled(model)) == ["trunk", "trunk_bn", "trunk_activation", "classes", "value"]

    def test_a_bn_before_the_softmax_goes(self) -> None:
        model = functional(
            (6,), Sequential([Input((6,)), layers.Dense(3, name="d"), layers.BatchNormalization(name="bn")])
        )
        model = Model(model.input, layers.Softmax(name="soft")(model.output))
        for norm in ("before", "after"):
            result = restyled(randomised(model), norm)
            assert not [layer for layer in result._flatten_layers() if isinstance(layer, layers.BatchNormalization)]

    def test_straight_behind_a_dropout(self) -> None:
        expected = ["first", "first_bn", "drop", "second", "second_bn", "last"]
        assert names(restyled(mlp(dropout=True), "after")) == expected
        behind = randomised(
            Sequential(
                [
                    Input((6,), name="x"),
                    layers.Dense(8, activation="elu", name="first"),
                    layers.Dropout(0.5, name="drop"),
                    layers.BatchNormalization(name="first_bn"),
                    layers.Dense(5, activation="elu", name="second"),
                    layers.Dense(3, name="last"),
                ]
            )
        )
        assert names(restyled(behind, "after")) == expected

    def test_in_recurrent_layers_and_attention(self) -> None:
        def body(x: Any) -> Any:
            x = layers.LSTM(4, return_sequences=True, name="lstm")(x)
            query = layers.Dense(4, activation="relu", name="query")(x)
            x = layers.Attention(name="attention")([query, x])
            x = layers.MultiHeadAttention(2, 2, name="heads")(x, x)
            gate = layers.Dense(4, activation="tanh", name="energy")(x)
            gate = layers.Dense(4, activation="softmax", name="weights")(gate)
            x = layers.Multiply(name="weighted")([x, gate])
            x = layers.Dense(5, activation="relu", name="hidden")(x)
            return layers.Dense(2, name="last")(x)

        model = randomised(functional((7, 3), body))
        reasons = left(model)
        assert set(reasons) == {"query", "energy", "weights", "last", "heads"}
        said = {reasons[name] for name in ("query", "energy", "weights")}
        assert said == {"it belongs to an attention block or a gate"}
        assert reasons["heads"] == "restyle does not change the EinsumDense in a MultiHeadAttention"
        new = set(names(restyled(model))) - set(names(model))
        assert new == {"hidden_bn", "hidden_activation"}

    def test_a_dense_without_an_activation(self) -> None:
        def body(x: Any) -> Any:
            return layers.Dense(2, name="b")(layers.Dense(4, name="a")(x))

        assert left(functional((3,), body))["a"] == "no activation follows it directly"


class TestOpaque:
    """What a layer holds inside stays as it is, and that is said."""

    @pytest.mark.parametrize("norm", ["before", "after", "none"])
    def test_wrapped_layers(self, norm: str) -> None:
        inner = Sequential([Input((4,)), layers.Dense(4, activation="relu"), layers.BatchNormalization()], name="inner")

        def body(x: Any) -> Any:
            x = layers.TimeDistributed(layers.Dense(4, activation="relu"), name="each")(x)
            x = layers.TimeDistributed(layers.BatchNormalization(), name="norm")(x)
            x = layers.TimeDistributed(inner, name="model")(x)
            x = layers.SpectralNormalization(layers.Conv1D(3, 2, activation="relu"), name="spectral")(x)
            x = layers.TimeDistributed(layers.LayerNormalization(), name="layer_norm")(x)
            x = layers.Bidirectional(layers.LSTM(3), name="both")(x)
            return layers.Dense(2, name="last")(layers.Dense(5, activation="relu", name="hidden")(x))

        model = randomised(functional((7, 3), body))
        said = "restyle does not change the "
        assert {name: reason for name, reason in left(model, norm).items() if name != "last"} == {
            "each": f"{said}Dense in a TimeDistributed",
            "norm": f"{said}BatchNormalization in a TimeDistributed",
            "model": f"{said}BatchNormalization and Dense in a TimeDistributed",
            "spectral": f"{said}Conv1D in a SpectralNormalization",
        }
        kept = restyled(model, norm)
        assert [name for name in names(kept) if "hidden" not in name] == [n for n in names(model) if n != "hidden"]

    def test_an_adapter(self) -> None:
        """Keras's LoRA: two more matrices, which a BN could not be folded into."""
        model = mlp()
        model.get_layer("second").enable_lora(2)
        assert left(model)["second"] == "restyle does not change Dense[lora] layers"
        assert names(restyled(model)) == ["first", "first_bn", "first_activation", "second", "last"]

    def test_integers(self) -> None:
        model = mlp()
        model.quantize("int8")
        assert set(left(model)) == {"first", "second", "last"}
        assert left(model)["first"] == "restyle does not change Dense[int8] layers"


def residual(norms: bool) -> keras.Model:
    def norm(x: Any, name: str) -> Any:
        return layers.BatchNormalization(name=name)(x) if norms else x

    image = Input((8, 8, 3), name="image")
    x = norm(layers.Conv2D(4, 3, padding="same", name="conv_1")(image), "bn_1")
    x = layers.ReLU(name="relu_1")(x)
    x = norm(layers.Conv2D(4, 3, padding="same", name="conv_2")(x), "bn_2")
    skip = norm(layers.Conv2D(4, 1, name="skip")(image), "bn_skip")
    x = layers.ReLU(name="relu_sum")(layers.Add(name="sum")([x, skip]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return randomised(Model(image, layers.Dense(2, name="classes")(x)))


class TestResidual:
    @pytest.mark.parametrize("norm", ["before", "after"])
    def test_a_bn_a_branch_and_none_on_the_sum(self, norm: str) -> None:
        result = restyled(residual(False), norm)
        graph = read(result).graph
        assert [graph.producer(name).name for name in graph.op("sum").inputs] == ["conv_2_bn", "skip_bn"]
        assert not [use for use in graph.consumers("sum") if "bn" in use.op]
        behind = "conv_1" if norm == "before" else "relu_1"
        assert graph.producer(graph.op("conv_1_bn").inputs[0]).name == behind

    def test_those_that_are_there_stay(self) -> None:
        result = restyled(residual(True), "before", bias="keep")
        assert names(result) == names(residual(True))

    def test_none_and_back(self) -> None:
        none = restyled(residual(True), "none")
        assert not [name for name in names(none) if name.startswith("bn")]
        back = restyled(none, "before")
        assert {name for name in names(back) if name.endswith("_bn")} == {"conv_1_bn", "conv_2_bn", "skip_bn"}

    def test_a_bn_that_normalises_the_sum_is_enough(self) -> None:
        def body(x: Any) -> Any:
            y = layers.Conv2D(3, 3, padding="same", name="conv")(x)
            y = layers.Add(name="sum")([x, y])
            y = layers.ReLU()(layers.BatchNormalization(name="bn")(y))
            return layers.Conv2D(2, 1, name="last")(y)

        assert left(functional((6, 6, 3), body))["conv"] == "no activation follows it directly"

    def test_a_linear_bottleneck_gets_its_bn(self) -> None:
        def body(x: Any) -> Any:
            x = layers.Conv2D(3, 1, name="project")(x)
            y = layers.Conv2D(3, 1, activation="relu", name="expand")(x)
            return layers.Conv2D(2, 1, name="last")(layers.Add()([x, y]))

        result = restyled(randomised(functional((6, 6, 3), body)))
        assert {"project_bn", "expand_bn"} <= set(names(result))


class TestBuilds:
    def test_a_shared_layer_shares_its_bn(self) -> None:
        a, b = Input((6,), name="a"), Input((6,), name="b")
        shared = layers.Dense(4, activation="tanh", name="shared")
        head = layers.Dense(2, name="head")
        model = randomised(Model([a, b], [head(shared(a)), head(shared(b))]))
        result = restyled(model)
        assert names(result) == ["shared", "shared_bn", "shared_activation", "head"]
        assert len(result.get_layer("shared_bn")._inbound_nodes) == 2
        assert not result.get_layer("shared").use_bias

    def test_calls_that_are_normalised_differently(self) -> None:
        """They cannot share a BN, and what is folded into one of them parts them."""
        a, b = Input((6,), name="a"), Input((6,), name="b")
        shared = layers.Dense(4, name="shared")
        normalised = layers.ReLU()(layers.BatchNormalization(name="norm")(shared(a)))
        joined = layers.Concatenate()([normalised, layers.ReLU()(shared(b))])
        model = randomised(Model([a, b], layers.Dense(2, name="last")(joined)))
        assert left(model)["shared"] == "its calls share it, and a BN follows only some of them"
        assert "shared_bn" not in names(restyled(model))
        changes = restyle_graph(read(model).graph, style_of("none")).changes
        assert [change.kind.value for change in changes] == ["remove", "parted"]
        assert changes[1].sentence.startswith("shared becomes 2 layers")
        assert {"shared", "shared_2"} <= set(names(restyled(model, "none")))
        fresh = restyle_graph(read(model).graph, style_of("none"), fresh=True)
        assert [change.kind.value for change in fresh.changes] == ["remove"]

    def test_calls_that_are_normalised_alike_stay_one_layer(self) -> None:
        a, b = Input((6,), name="a"), Input((6,), name="b")
        shared, norm = layers.Dense(4, name="shared"), layers.BatchNormalization(name="norm")
        joined = layers.Concatenate()([layers.ReLU()(norm(shared(x))) for x in (a, b)])
        model = randomised(Model([a, b], layers.Dense(2, name="last")(joined)))
        changes = restyle_graph(read(model).graph, style_of("none")).changes
        assert [change.kind.value for change in changes] == ["remove"]
        assert "shared_2" not in names(restyled(model, "none"))

    def test_a_nested_model_that_is_called_twice_stays_one(self) -> None:
        tower = Sequential(
            [Input((6,)), layers.Dense(5, activation="elu", name="d1"), layers.Dense(4, activation="elu", name="d2")],
            name="tower",
        )
        a, b = Input((6,), name="a"), Input((6,), name="b")
        joined = layers.Concatenate(name="both")([tower(a), tower(b)])
        model = randomised(Model({"a": a, "b": b}, layers.Dense(2, name="head")(joined)))
        result = restyled(model)
        assert names(result) == ["tower", "both", "head"]
        inner = result.get_layer("tower")
        assert isinstance(inner, Sequential)
        assert names(inner) == ["d1", "d1_bn", "d1_activation", "d2", "d2_bn", "d2_activation"]
        moved = restyled(randomised(result, 3), "after")
        assert names(moved.get_layer("tower"))[:3] == ["d1", "d1_activation", "d1_bn"]
        assert names(restyled(randomised(moved, 4), "none")) == ["tower", "both", "head"]

    def test_a_frozen_layer_gets_a_frozen_bn(self) -> None:
        model = mlp()
        model.get_layer("first").trainable = False
        result = restyled(model)
        assert not result.get_layer("first_bn").trainable
        assert result.get_layer("second_bn").trainable

    def test_mixed_precision_stays(self) -> None:
        model = mlp(dtype="mixed_float16")
        result = restyled(model)
        assert result.get_layer("first_bn").dtype_policy.name == "mixed_float16"

    @pytest.mark.parametrize("norm", ["before", "after", "none"])
    @pytest.mark.parametrize(
        ("shape", "make"),
        [
            ((9, 3), lambda **kw: layers.Conv1D(4, 3, **kw)),
            ((5, 5, 5, 2), lambda **kw: layers.Conv3D(3, 2, **kw)),
            ((6, 6, 4), lambda **kw: layers.Conv2D(4, 3, groups=2, **kw)),
            ((6, 6, 3), lambda **kw: layers.Conv2DTranspose(4, 3, strides=2, **kw)),
            ((7, 3), lambda **kw: layers.Conv1DTranspose(4, 2, **kw)),
            ((6, 6, 3), lambda **kw: layers.DepthwiseConv2D(3, depth_multiplier=2, **kw)),
            ((6, 6, 3), lambda **kw: layers.SeparableConv2D(4, 3, **kw)),
            ((9, 3), lambda **kw: layers.SeparableConv1D(4, 3, **kw)),
            ((7, 3), lambda **kw: layers.EinsumDense("abc,cd->abd", (7, 5), bias_axes="d", **kw)),
            ((7, 3), lambda **kw: layers.Dense(5, **kw)),
        ],
    )
    def test_every_linear_layer(self, shape: tuple[int, ...], make: Any, norm: str) -> None:
        def body(x: Any) -> Any:
            x = make(activation="elu", name="linear")(x)
            return layers.Dense(2, name="last")(layers.Flatten()(x))

        model = randomised(functional(shape, body))
        result = restyled(model, norm)
        assert ("linear_bn" in names(result)) == (norm != "none")
        linear = result.get_layer("linear")
        assert (linear.bias is None) == (norm == "before")
        back = restyled(randomised(result, 5), "after")
        assert back.get_layer("linear").bias is not None

    def test_an_activation_that_is_a_layer_or_a_function_of_ones_own(self) -> None:
        def cube(x: Any) -> Any:
            return x * x * x

        def body(x: Any) -> Any:
            x = layers.Dense(4, activation=layers.LeakyReLU(0.1), name="a")(x)
            x = layers.Dense(4, activation=cube, name="b")(x)
            return layers.Dense(2, name="last")(x)

        result = restyled(randomised(functional((3,), body)))
        assert isinstance(result.get_layer("a_activation"), layers.LeakyReLU)
        assert result.get_layer("b_activation").activation is cube

    def test_a_bn_without_scale_or_shift_moves_as_it_is(self) -> None:
        def body(x: Any) -> Any:
            x = layers.Dense(4, activation="relu", name="a")(x)
            x = layers.BatchNormalization(scale=False, center=False, momentum=0.7, name="bn")(x)
            return layers.Dense(2, name="last")(x)

        norm = restyled(randomised(functional((3,), body))).get_layer("bn")
        assert (norm.scale, norm.center, norm.momentum) == (False, False, 0.7)

    def test_the_model_that_was_given_stays_as_it_was(self) -> None:
        model = mlp()
        config, weights = model.get_config(), model.get_weights()
        bnfold.restyle(model, "before")
        assert model.get_config() == config
        for old, new in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


class TestBias:
    def test_keep(self) -> None:
        result = restyled(mlp(), bias="keep")
        assert all(result.get_layer(name).use_bias for name in ("first", "second"))
        assert not result.get_layer("first_bn").moving_mean.numpy().any()

    def test_it_goes_into_the_moving_mean(self) -> None:
        model = mlp()
        mean = restyled(model).get_layer("first_bn").moving_mean
        np.testing.assert_allclose(mean, -np.asarray(model.get_layer("first").bias), rtol=1e-6)

    def test_it_comes_back(self) -> None:
        model = mlp(use_bias=False)
        result = restyled(model, "after")
        assert [result.get_layer(name).use_bias for name in ("first", "second", "last")] == [True, True, False]

    def test_it_stays_without_where_none_was_asked_for(self) -> None:
        result = restyled(mlp(use_bias=False), "after", bias="keep")
        assert not result.get_layer("first").use_bias


class TestNewNorms:
    def test_they_do_nothing_with_the_statistics_0_and_1(self) -> None:
        norm = restyled(mlp(), "after").get_layer("first_bn")
        np.testing.assert_allclose(norm.gamma, np.full(8, np.sqrt(1 + norm.epsilon)), rtol=1e-6)
        assert [norm.moving_mean.numpy().any(), norm.beta.numpy().any()] == [False, False]
        np.testing.assert_array_equal(norm.moving_variance, np.ones(8))

    def test_momentum_and_epsilon(self) -> None:
        norm = restyled(mlp(), momentum=0.8, epsilon=1e-4).get_layer("second_bn")
        assert (norm.momentum, norm.epsilon) == (0.8, 1e-4)

    @pytest.mark.parametrize("norm", ["before", "after"])
    def test_measured_statistics(self, norm: str) -> None:
        model = mlp()
        data = np.random.default_rng(2).normal(3.0, 2.0, (700, 6)).astype(np.float32)
        result = restyled(model, norm, data=data)
        assert_same(model, result, {"x": data})
        passing = keras.Model(model.inputs[0], model.get_layer("first").output)(data)
        if norm == "before":
            kernel, _ = model.get_layer("first").get_weights()
            passing = data.astype(np.float64) @ kernel
        layer = result.get_layer("first_bn")
        expected = np.asarray(passing, np.float64)
        np.testing.assert_allclose(layer.moving_mean, expected.mean(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layer.moving_variance, expected.var(axis=0), rtol=1e-4)

    def test_data_of_another_shape(self) -> None:
        with pytest.raises(UsageError, match=r"x takes numbers of shape \(None, 6\), not \(4, 5\)"):
            bnfold.restyle(mlp(), data=np.zeros((4, 5), np.float32))


class TestFresh:
    def test_a_bias_goes_into_nothing(self) -> None:
        changes = restyle_graph(read(mlp()).graph, style_of("before"), fresh=True).changes
        told = [change.sentence for change in changes if change.kind.value == "bias goes"]
        assert told[0] == "first loses its bias: first_bn follows it directly"

    def test_the_seed_decides(self) -> None:
        model = mlp()
        first, again, other = (bnfold.restyle(model, weights="fresh", seed=seed) for seed in (1, 1, 2))
        for a, b, c in zip(first.weights, again.weights, other.weights, strict=True):
            np.testing.assert_array_equal(a, b)
            assert "kernel" not in a.name or not np.array_equal(a, c)

    def test_layers_of_one_name_begin_alike_in_every_style(self) -> None:
        arms = [bnfold.restyle(mlp(), norm, weights="fresh", seed=7) for norm in ("before", "after", "none")]
        kernels = [[arm.get_layer(name).kernel.numpy() for name in ("first", "second", "last")] for arm in arms]
        for own in kernels[1:]:
            for a, b in zip(kernels[0], own, strict=True):
                np.testing.assert_array_equal(a, b)

    def test_the_layers_own_initialisers(self) -> None:
        model = mlp(kernel_initializer="ones", bias_initializer="ones")
        result = bnfold.restyle(model, "after", weights="fresh")
        assert all(np.all(value == 1) for value in result.get_layer("first").get_weights())
        norm = result.get_layer("first_bn")
        assert [float(np.mean(value)) for value in norm.get_weights()] == [1, 0, 0, 1]

    def test_what_was_learned_from_data_beforehand_stays(self) -> None:
        normalised = layers.Normalization(name="scaled")
        normalised.adapt(np.random.default_rng(0).normal(5, 3, (50, 4)))
        model = Sequential([Input((4,)), normalised, layers.Dense(3, activation="relu"), layers.Dense(2)])
        result = bnfold.restyle(model, weights="fresh")
        np.testing.assert_array_equal(result.get_layer("scaled").mean, normalised.mean)

    def test_the_global_seeds_are_left_alone(self) -> None:
        model = mlp()
        random.seed(11)
        expected = random.random()
        random.seed(11)
        bnfold.restyle(model, weights="fresh", seed=3)
        assert random.random() == expected

    def test_data_make_no_sense(self) -> None:
        with pytest.raises(UsageError, match="not for fresh ones"):
            bnfold.restyle(mlp(), weights="fresh", data=np.zeros((4, 6), np.float32))


def padded() -> keras.Model:
    """A BN behind a ReLU and in front of a padded convolution, which can be folded nowhere."""

    def body(x: Any) -> Any:
        x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
        x = layers.BatchNormalization(name="bn")(x)
        x = layers.Conv2D(2, 3, padding="same", activation="relu", name="padded")(x)
        return layers.Dense(2, name="last")(layers.GlobalAveragePooling2D()(x))

    return randomised(functional((8, 8, 3), body))


class TestWhatNeedsTraining:
    @pytest.mark.parametrize("norm", ["before", "none"])
    def test_it_is_a_warning(self, norm: str) -> None:
        with pytest.warns(bnfold.BnfoldWarning, match="needs training.*padded .* pads with zeros") as caught:
            result = bnfold.restyle(padded(), norm)
        assert caught[0].message.layer == "conv"  # type: ignore[union-attr]
        assert names(result)[:2] == (["conv", "bn"] if norm == "before" else ["conv", "padded"])

    def test_what_is_no_bn_stays_and_is_not_said_to_have_been_asked_to(self) -> None:
        model = functional((6,), lambda x: layers.Dense(2)(layers.BatchNormalization()(keras.ops.relu(x)) * 2.0))
        with pytest.warns(
            bnfold.BnfoldWarning, match=r"multiply\w* \(ops.Multiply\) stays where it is, and restyle moves"
        ):
            bnfold.restyle(randomised(model), "none")

    def test_exact_refuses(self) -> None:
        with pytest.raises(NotEquivalentError, match="bn moves between conv and its relu"):
            bnfold.restyle(padded(), exact=True)

    def test_what_is_exact_beside_it_is_a_model_of_its_own(self) -> None:
        model = padded()
        found = restyle_graph(read(model).graph, style_of("before"))
        assert [change.norm for change in found.changes if not change.exact] == ["bn"]
        assert found.exact_part is not None
        exact = read(model).with_graph(found.exact_part).keras_model
        assert_same(model, exact, feeds(read(model)))


class TestCompiled:
    def test_the_settings_are_kept_and_the_state_is_not(self, tmp_path: Path) -> None:
        model = mlp()
        model.compile(keras.optimizers.Adam(0.02), loss="mse", metrics=["mae"], run_eagerly=True)
        data = np.zeros((8, 6), np.float32), np.zeros((8, 3), np.float32)
        model.fit(*data, verbose=0)
        model.save(tmp_path / "model.keras")
        for given in (model, tmp_path / "model.keras"):
            result = bnfold.restyle(given)
            assert result.compiled
            assert (result.loss, float(result.optimizer.learning_rate)) == ("mse", pytest.approx(0.02))
            assert int(result.optimizer.iterations) == 0
            assert set(result.fit(*data, verbose=0).history) == {"loss", "mae"}

    def test_an_hdf5_file(self, tmp_path: Path) -> None:
        model = mlp()
        model.compile(keras.optimizers.SGD(0.5), loss="mse", metrics=["mae"])
        model.save(tmp_path / "model.h5")
        result = bnfold.restyle(tmp_path / "model.h5")
        assert (result.loss, float(result.optimizer.learning_rate)) == ("mse", 0.5)

    def test_a_model_that_was_not_compiled_is_not(self) -> None:
        assert not bnfold.restyle(mlp()).compiled


def test_it_loads_without_bnfold(tmp_path: Path) -> None:
    model = mlp()
    result = bnfold.restyle(model)
    result.save(tmp_path / "restyled.keras")
    loaded = keras.models.load_model(tmp_path / "restyled.keras")
    assert_same(model, loaded, feeds(read(model)))
    assert names(loaded) == names(result)
