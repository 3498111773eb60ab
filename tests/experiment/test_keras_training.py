"""One training: what arms share in the beginning, what they see, and how a run ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from bnfold.errors import UsageError
from bnfold.experiment import work
from bnfold.experiment.arms import Built, build, compile_arm, open_arm, told_of_user_mistakes
from bnfold.experiment.initial import initialise
from bnfold.experiment.schedule import Arm, Plan, Settings, make_plan
from bnfold.experiment.significance import compare
from bnfold.experiment.training import Trained, train, unpack

pytestmark = pytest.mark.slow

DIGITS = Path(__file__).parents[2] / "sample_models" / "digits.npz"


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = keras.Sequential(
        [
            keras.Input((8, 8)),
            keras.layers.Flatten(),
            keras.layers.Dense(16, activation="relu", name="first"),
            keras.layers.Dropout(0.2, name="drop"),
            keras.layers.Dense(12, activation="relu", name="second"),
            keras.layers.Dense(10, activation="softmax", name="last"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    path = tmp_path_factory.mktemp("models") / "mlp.keras"
    model.save(path)
    return path


@pytest.fixture
def several() -> keras.Model:
    a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
    x = keras.layers.Dense(6, activation="relu")(keras.layers.Concatenate()([a, b]))
    heads = [keras.layers.Dense(2, activation="softmax", name="kind")(x), keras.layers.Dense(1, name="size")(x)]
    return keras.Model([a, b], heads)


def settings(**changes: Any) -> Settings:
    return Settings(**{"data": str(DIGITS), "epochs": 2, "batch_size": 128, **changes})


def arm(model_file: Path, label: str, **changes: Any) -> Built:
    plan = make_plan([str(model_file)], (), settings=settings(**changes))
    return build(next(each for each in plan.arms if each.label == label), plan.settings)


def trained(
    built: Built, seed: int = 0, rate: float | None = 0.003, **changes: Any
) -> tuple[list[Mapping[str, Any]], Trained]:
    rows: list[Mapping[str, Any]] = []
    found = train(built, settings(**changes), seed, rate, rows.append)
    return rows, found


def without_times(rows: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


class TestBeginning:
    def weights(self, built: Built, seed: int) -> dict[str, np.ndarray]:
        model = open_arm(keras, built, settings())
        initialise(keras, model, seed)
        return {f"{layer.name}/{weight.name}": weight.numpy() for layer in model.layers for weight in layer.variables}

    def test_arms_share_the_weights_of_the_layers_they_share(self, model_file: Path) -> None:
        found = {label: self.weights(arm(model_file, label), 5) for label in ("none", "before", "after")}
        for name in ("first/kernel", "second/kernel", "last/kernel", "drop/seed_generator_state"):
            for label in ("before", "after"):
                assert np.array_equal(found["none"][name], found[label][name]), name
        assert "first_bn/gamma" in found["before"]
        assert "first_bn/gamma" not in found["none"]

    def test_seeds_differ(self, model_file: Path) -> None:
        built = arm(model_file, "none")
        first, again, other = (self.weights(built, seed)["first/kernel"] for seed in (1, 1, 2))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_two_layers_alike_differ(self) -> None:
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(4)])
        initialise(keras, model, 0)
        assert not np.array_equal(model.layers[0].kernel, model.layers[1].kernel)

    def test_what_is_frozen_or_adapted_stays(self) -> None:
        normal, frozen = keras.layers.Normalization(), keras.layers.Dense(4, trainable=False)
        normal.adapt(np.arange(12.0).reshape(3, 4))
        inner = keras.Sequential([keras.Input((4,)), frozen, keras.layers.Dense(2, name="free")])
        model = keras.Sequential([keras.Input((4,)), normal, inner])
        before = {weight.path: weight.numpy() for weight in model.weights}
        initialise(keras, model, 3)
        changed = {weight.path for weight in model.weights if not np.array_equal(weight, before[weight.path])}
        assert [path.rpartition("/")[2] for path in changed] == ["kernel"]
        assert all("free" in path for path in changed)

    def test_weights_are_kept_where_that_is_asked_for(self, model_file: Path) -> None:
        original = keras.models.load_model(model_file)
        data = np.load(DIGITS)
        expected = original.evaluate(data["x_train"], data["y_train"], verbose=0)[0]
        rows, _ = trained(arm(model_file, "none", keep_weights=True), rate=1e-9, epochs=1, keep_weights=True)
        assert rows[0]["val_loss"] == pytest.approx(expected, rel=0.05)  # of the fifth that is split off


class TestTraining:
    def test_is_repeatable_and_follows_the_seed(self, model_file: Path) -> None:
        built = arm(model_file, "before")
        first, again, other = (without_times(trained(built, seed)[0]) for seed in (1, 1, 2))
        assert first == again
        assert first != other
        assert [row["epoch"] for row in first] == [1, 2]

    def test_the_best_epoch_is_kept(self, model_file: Path) -> None:
        built = arm(model_file, "none")
        rows, found = trained(built, epochs=4, rate=0.03)
        scores = [row["val_score"] for row in rows]
        assert found.val_score == max(scores)
        assert found.best_epoch == scores.index(max(scores)) + 1
        model = open_arm(keras, built, settings())
        unpack(model, found.weights)
        data = np.load(DIGITS)
        order = np.random.default_rng([0, 1]).permutation(len(data["x_train"]))[: round(0.2 * len(data["x_train"]))]
        right = model.predict(data["x_train"][order], verbose=0).argmax(-1) == data["y_train"][order]
        assert right.mean() == pytest.approx(found.val_score)

    def test_a_run_that_diverges_ends_there(self, model_file: Path) -> None:
        built = arm(model_file, "none", optimizer="sgd")
        rows, found = trained(built, rate=1e30, epochs=5)
        assert found.diverged
        assert (found.weights, rows[-1]["diverged"]) == (b"", True)
        assert len(rows) < 5

    def test_early_stopping(self, model_file: Path) -> None:
        rows, found = trained(arm(model_file, "none"), rate=1e-12, epochs=6, patience=2)
        assert len(rows) == found.best_epoch + 2 == 3

    def test_a_rate_takes_the_place_of_a_schedule(self, tmp_path: Path) -> None:
        model = keras.Sequential([keras.Input((8, 8)), keras.layers.Flatten(), keras.layers.Dense(1)])
        schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 10, 0.9)
        model.compile(keras.optimizers.SGD(schedule), "mse")
        model.save(tmp_path / "m.keras")
        built = build(Arm("m", str(tmp_path / "m.keras")), settings())
        still, _ = trained(built, rate=1e-12)
        assert still[0]["val_loss"] == pytest.approx(still[1]["val_loss"])
        moving, _ = trained(built, rate=None)
        assert moving[0]["val_loss"] != pytest.approx(moving[1]["val_loss"])
        json.dumps(built.compiled)  # and it still is plain data, which another process reads without Keras

    @pytest.mark.parametrize(
        ("metrics", "asked", "metric", "output"),
        [
            ({"kind": ["accuracy"]}, None, "accuracy", "kind"),
            ([[], ["mae"]], None, "mae", "size"),
            (None, None, "loss", ""),
            ({"kind": ["accuracy"]}, "size_mae", "mae", "size"),
            (None, "kind_strange:min", "strange", "kind"),
            (None, "loss", "loss", ""),
        ],
    )
    def test_metrics_of_several_outputs(
        self, several: keras.Model, tmp_path: Path, metrics: Any, asked: str | None, metric: str, output: str
    ) -> None:
        several.compile("adam", {"kind": "sparse_categorical_crossentropy", "size": "mse"}, metrics=metrics)
        several.save(tmp_path / "m.keras")
        built = build(Arm("m", str(tmp_path / "m.keras")), settings(metric=asked))
        assert (built.metric, built.output, built.higher_is_better) == (metric, output, metric == "accuracy")

    def test_a_metric_without_its_output(self, several: keras.Model, tmp_path: Path) -> None:
        several.compile("adam", "mse")
        several.save(tmp_path / "m.keras")
        with pytest.raises(UsageError, match=r"has the outputs kind, size: name .* as in kind_mae"):
            build(Arm("m", str(tmp_path / "m.keras")), settings(metric="mae"))

    def test_several_inputs_and_outputs(self, several: keras.Model, tmp_path: Path) -> None:
        several.compile("adam", ["sparse_categorical_crossentropy", "mse"], metrics={"kind": ["accuracy"]})
        several.save(tmp_path / "m.keras")
        script = tmp_path / "mine.py"
        script.write_text(
            "import numpy as np\nX = np.random.default_rng(0).random((40, 4))\ndef load():\n"
            "    return {'x_train': {'a': X, 'b': X[:, :2]}, 'y_train': [(X[:, 0] > 0.5) * 1, X[:, 1:2]]}\n"
        )
        plan = make_plan([str(tmp_path / "m.keras")], ("none", "before"), settings=settings(data=f"{script}:load"))
        assert work.prepare(plan).metric == "kind_accuracy"
        rows, found = trained(build(plan.arms[1], plan.settings), data=plan.settings.data)
        assert found.val_score == max(row["val_score"] for row in rows)
        assert 0 <= found.val_score <= 1

    @pytest.mark.parametrize("kind", ["tf", "keras"])
    def test_datasets(self, model_file: Path, tmp_path: Path, kind: str) -> None:
        script = tmp_path / "mine.py"
        script.write_text(DATASETS.format(digits=str(DIGITS), kind=kind))
        changes = {"data": f"{script}:load"}
        built = arm(model_file, "before")
        first, again = (trained(built, **changes) for _ in range(2))
        assert without_times(first[0]) == without_times(again[0])
        assert first[1].val_score is not None
        assert first[1].val_score > 0.2


DATASETS = """
import keras, numpy as np, tensorflow as tf

class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y
    def __len__(self):
        return len(self.x) // 64
    def __getitem__(self, index):
        part = slice(64 * index, 64 * index + 64)
        return self.x[part], self.y[part]

def load():
    data = np.load({digits!r})
    x, y = data["x_train"], data["y_train"]
    if {kind!r} == "tf":
        parts = (x[:900], y[:900]), (x[900:], y[900:])
        return tuple(tf.data.Dataset.from_tensor_slices(part).shuffle(500).batch(64) for part in parts)
    return {{"train": Batches(x[:900], y[:900]), "val": Batches(x[900:], y[900:])}}
"""


def plan_for(model_file: Path, *arms: str, **changes: Any) -> Plan:
    return make_plan([str(model_file)], arms, seeds=2, rates=[0.003], settings=settings(**changes))


class TestPreparing:
    def test_what_it_finds(self, model_file: Path) -> None:
        found = work.prepare(plan_for(model_file))
        assert [arm.label for arm in found.arms] == ["none", "before", "after"]
        assert (found.metric, found.higher_is_better, found.has_test) == ("accuracy", True, True)

    @pytest.mark.parametrize(("batch_size", "said"), [(128, True), (2, False)])
    def test_moving_statistics_that_have_not_come_to_move(self, model_file: Path, batch_size: int, said: bool) -> None:
        """9 batches an epoch leave 0.99 to the power of 18 of them, 539 leave next to nothing."""
        found = work.prepare(plan_for(model_file, "none", "before", batch_size=batch_size))
        assert bool(found.notes) == said
        if said:
            assert "still 0.83 of what they began with" in found.notes[0]

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"optimizer": "adamm"}, "Keras has no optimizer adamm"),
            ({"loss": "no_loss"}, "no_loss"),
            ({"metric": "no_metric:max"}, "no_metric"),
            ({"loss": "categorical_crossentropy"}, "y_train is not one-hot over 10 classes"),
            ({"loss": "binary_crossentropy"}, "cannot be trained on"),
        ],
    )
    def test_settings_that_do_not_fit(self, model_file: Path, changes: dict[str, str], words: str) -> None:
        with pytest.raises(UsageError, match=words):
            work.prepare(plan_for(model_file, "original", "original", **changes))

    def test_data_of_the_wrong_shape(self, model_file: Path, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", x_train=np.ones((20, 7, 8)), y_train=np.ones(20))
        with pytest.raises(UsageError, match=r"x_train has examples of shape \(7, 8\), and the model takes \(8, 8\)"):
            work.prepare(plan_for(model_file, data=str(tmp_path / "d.npz")))

    def test_a_model_that_is_not_compiled(self, tmp_path: Path) -> None:
        model = keras.Sequential([keras.Input((8, 8)), keras.layers.Flatten(), keras.layers.Dense(10)])
        model.save(tmp_path / "m.keras")
        with pytest.raises(UsageError, match="was not compiled, so it has no loss: name one with --loss"):
            work.prepare(plan_for(tmp_path / "m.keras"))

    def test_an_arm_that_computes_nan(self, tmp_path: Path) -> None:
        model = keras.Sequential([keras.Input((8, 8)), keras.layers.Flatten(), keras.layers.Rescaling(1e30)])
        model.add(keras.layers.Rescaling(1e30))
        model.add(keras.layers.Dense(10, activation="softmax"))
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.save(tmp_path / "m.keras")
        with pytest.raises(UsageError, match="the arm none computes NaN or infinity before it is trained"):
            work.prepare(plan_for(tmp_path / "m.keras"))

    def test_a_model_without_anything_to_train(self, model_file: Path, tmp_path: Path) -> None:
        model = keras.models.load_model(model_file)
        model.trainable = False
        model.save(tmp_path / "m.keras")
        with pytest.raises(UsageError, match="nothing to train"):
            work.prepare(plan_for(tmp_path / "m.keras"))

    def test_what_keras_says_of_a_layer(self) -> None:
        words = "Exception encountered when calling Lambda.call().\n\n\x1b[1mname 'x' is not defined\x1b[0m\n\n"
        with (
            pytest.raises(
                UsageError,
                match=r"^it fails: Exception encountered when calling Lambda.call\(\)\. name 'x' is not defined$",
            ),
            told_of_user_mistakes("it fails"),
        ):
            raise NameError(f"{words}Arguments received by Lambda.call():\n  • inputs=tf.Tensor(shape=(2, 3))")

    def test_an_onnx_model(self) -> None:
        with pytest.raises(UsageError, match="is no Keras model"):
            work.prepare(plan_for(DIGITS.parent / "digits_mlp.onnx"))


class TestFinishing:
    def test_scores_and_cost(self, model_file: Path) -> None:
        built = arm(model_file, "before")
        runs = {seed: trained(built, seed)[1].weights for seed in (0, 1)}
        plain, content = work.finish(built, settings(), runs)
        data = np.load(DIGITS)
        for seed, packed in runs.items():
            model = open_arm(keras, built, settings())
            unpack(model, packed)
            right = model.predict(data["x_test"], verbose=0).argmax(-1) == data["y_test"]
            assert plain["scores"][str(seed)] == pytest.approx(right.mean())
        shipped = plain["shipped"]
        assert (shipped["batchnorms"], shipped["batchnorms_left"], shipped["equivalent"]) == (2, 0, True)
        assert shipped["parameters"] == 64 * 16 + 16 + 16 * 12 + 12 + 12 * 10 + 10
        timed, _ = work.time_models({"a": content, "b": content}, threads=1)
        assert timed["a"]["relative"] == 1.0
        assert timed["b"]["milliseconds"] > 0


class TestPrecision:
    """Models that compute in 16 bits, from their arm to what is shipped."""

    def model(self, policy: str, path: Path, optimizer: Any = "adam") -> Path:
        keras.utils.set_random_seed(0)
        layers = [
            keras.layers.Flatten(dtype=policy),
            keras.layers.Dense(16, activation="relu", name="first", dtype=policy),
            keras.layers.Dense(10, name="last", dtype=policy),
            keras.layers.Softmax(dtype="float32"),
        ]
        model = keras.Sequential([keras.Input((8, 8)), *layers])
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.save(path)
        return path

    @pytest.mark.parametrize(("policy", "nodes"), [("mixed_float16", True), ("mixed_bfloat16", False)])
    def test_to_the_end(self, tmp_path: Path, policy: str, nodes: bool) -> None:
        """tf2onnx knows no bfloat16: such a model is folded as a Keras model, and its predictions are compared."""
        built = arm(self.model(policy, tmp_path / "m.keras"), "before")
        rows, found = trained(built, epochs=3, rate=0.01)
        assert not rows[-1]["diverged"]
        assert found.val_score is not None
        assert found.val_score > 0.3
        norm = open_arm(keras, built, settings()).get_layer("first_bn")
        assert (norm.dtype_policy.name, norm.moving_mean.dtype) == (policy, "float32")
        plain, content = work.finish(built, settings(), {0: found.weights})
        shipped = plain["shipped"]
        assert (shipped["batchnorms"], shipped["batchnorms_left"], shipped["equivalent"]) == (1, 0, True)
        assert shipped["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
        assert (shipped["nodes"] is not None, bool(content)) == (nodes, nodes)
        assert ("it computes in bfloat16" in " ".join(shipped["notes"])) == (not nodes)

    def test_a_rate_reaches_the_optimizer_inside_a_scaled_one(self, tmp_path: Path) -> None:
        scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
        built = arm(self.model("mixed_float16", tmp_path / "m.keras", scaled), "none")
        model = open_arm(keras, built, settings())
        compile_arm(keras, model, built, 0.03)
        assert float(model.optimizer.inner_optimizer.learning_rate) == pytest.approx(0.03)


class TestControls:
    """The whole way from training to the sentence about the difference."""

    def scores(self, built: Built, seeds: int) -> list[float]:
        found = [trained(built, seed, 0.01, epochs=1)[1].val_score for seed in range(seeds)]
        return [score for score in found if score is not None]

    def test_identical_arms_do_not_differ_at_all(self, model_file: Path) -> None:
        plan = make_plan([str(model_file)], ("before", "before"), settings=settings())
        scores = {arm.label: self.scores(build(arm, plan.settings), 2) for arm in plan.arms}
        (found,) = compare(scores)
        assert len(set(scores["before"])) == 2
        assert (found.differences, found.clear) == ((0.0, 0.0), False)

    def test_a_planted_effect_is_found(self, model_file: Path, tmp_path: Path) -> None:
        """One arm has a layer of a single unit, and six seeds are the fewest that can tell."""
        layers = keras.layers
        hidden = layers.Dense(1, activation="relu", name="first")
        last = layers.Dense(10, activation="softmax", name="last")
        narrow = keras.Sequential([keras.Input((8, 8)), layers.Flatten(), hidden, last])
        narrow.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        narrow.save(tmp_path / "narrow.keras")
        plan = make_plan([str(model_file), str(tmp_path / "narrow.keras")], (), settings=settings())
        (found,) = compare({arm.label: self.scores(build(arm, plan.settings), 6) for arm in plan.arms})
        assert found.mean > 0
        assert (found.p, found.clear) == (2.0**-5, True)


FRIEDMAN = """
import numpy as np

def load(seed):
    x = np.random.default_rng(seed).uniform(size=(400, 5))
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    return x, y
"""


def test_a_regression(tmp_path: Path) -> None:
    """Friedman's first function (1991), where less of the score is better."""
    (tmp_path / "mine.py").write_text(FRIEDMAN)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    model.save(tmp_path / "m.keras")
    changes = {"data": f"{tmp_path / 'mine.py'}:load", "batch_size": 32}
    found = work.prepare(plan_for(tmp_path / "m.keras", "none", "before", **changes))
    assert (found.metric, found.higher_is_better, found.has_test) == ("mae", False, False)
    rows, result = trained(found.arms[0], rate=0.03, epochs=4, **changes)
    scores = [row["val_score"] for row in rows]
    assert result.val_score == min(scores) < scores[0]
