"""``bnfold experiment`` from end to end: on digits, killed and resumed, on a cluster, and with everything wrong.

The size is that of an experiment in earnest, 3 arms × 3 rates × 5 seeds; the net and its data are tiny. The mistakes
come first: the experiment on one worker, which the later tests compare with, goes on meanwhile.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest
from dask_cluster import cluster
from process import SAMPLES, bnfold, running

pytestmark = pytest.mark.slow

Process = subprocess.Popen[str]
DIGITS = SAMPLES / "digits.npz"
ARMS, RATES, SEEDS = ["none", "before", "after"], [0.01, 0.03, 0.1], 5
RUNS = len(ARMS) * len(RATES) * SEEDS
#: TensorFlow takes its time on a busy machine.
SECONDS = 600


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import keras

    layers = keras.layers
    net = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, padding="same", activation="relu", name="conv"),
            layers.Conv2D(10, 3, padding="same", name="last"),
            layers.GlobalAveragePooling2D(),
            layers.Softmax(),
        ]
    )
    net.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    path = tmp_path_factory.mktemp("model") / "cnn.keras"
    net.save(path)
    return path


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the digits, as training takes no time then."""
    digits = np.load(DIGITS)
    path = tmp_path_factory.mktemp("data") / "few.npz"
    np.savez(path, **{name: digits[name][:320] for name in ("x_train", "y_train", "x_test", "y_test")})
    return path


def arguments(model: Path, data: Path | str, store: Path, *more: str) -> list[str]:
    """The full size; what comes later takes the place of what came before."""
    return ["experiment", str(model), "--data", str(data), "--arms", ",".join(ARMS), "--seeds", str(SEEDS), "--lr",
            ",".join(map(str, RATES)), "--epochs", "1", "--batch-size", "32", "--format", "json", "--store", str(store),
            *more]  # fmt: skip


def lasting(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what is different each time: times."""
    text = json.loads(json.dumps(result))
    for arm in text["arms"]:
        del arm["seconds_an_epoch"], arm["shipped"]["milliseconds"], arm["shipped"]["relative"]
        del arm["shipped"]["verdict"]  # says how long it took
        for run in arm["runs"]:
            for epoch in run["epochs"]:
                del epoch["seconds"]
    return dict(text)


def finished(store: Path) -> dict[str, float]:
    """When each job of a store ended; nothing of one that is being made."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
        return dict(database.execute("select key, finished from jobs where status = 'ok'"))
    return {}


def begun(store: Path, line: list[str], enough: int) -> Process:
    """A bnfold process that has ``enough`` jobs behind it."""
    process = running(line)
    while not store.exists() or len(finished(store)) < enough:
        assert process.poll() is None
        time.sleep(0.05)
    return process


@pytest.fixture(scope="module", autouse=True)
def under_way(model: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Process]]:
    """The experiment on one worker, which goes on beside the first tests."""
    store = tmp_path_factory.mktemp("store") / "s.sqlite"
    plot = str(store.with_name("p.svg"))
    process = running(arguments(model, few, store, "--workers", "1", "--plot", plot))
    yield store, process
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def done(under_way: tuple[Path, Process]) -> tuple[Path, dict[str, Any]]:
    """The store and the result of the experiment on one worker."""
    store, process = under_way
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    return store, json.loads(out)


def assert_sentence(line: list[str], *words: str) -> None:
    """In this process, whose fork server has TensorFlow from the first of these tests on."""
    outcome = command_line.bnfold(*line)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("bnfold: ")
    assert outcome.err.count("\n") == 1
    for word in words:
        assert word in outcome.err


class TestMistakes:
    """One sentence each, exit code 2, and no store where none was."""

    @pytest.fixture
    def refused(self, model: Path, tmp_path: Path) -> Any:
        store = tmp_path / "s.sqlite"

        def check(*words: str, more: tuple[str, ...] = (), data: Path | str = DIGITS, model: Path = model) -> None:
            assert_sentence(arguments(model, data, store, "--format", "text", *more), *words)
            assert not store.exists()

        return check

    def test_data_of_the_wrong_shape(self, refused: Any, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", x_train=np.ones((20, 8, 7)), y_train=np.ones(20))
        refused("x_train has examples of shape (8, 7)", data=tmp_path / "d.npz")

    def test_a_function_that_raises(self, refused: Any, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text("def load():\n    raise RuntimeError('no data today')\n")
        refused("mine.py:load raised RuntimeError: no data today", data=f"{tmp_path / 'mine.py'}:load")

    def test_a_loss_that_does_not_fit(self, refused: Any) -> None:
        refused("y_train is not one-hot over 10 classes", more=("--loss", "categorical_crossentropy"))

    def test_one_hot_labels_for_a_sparse_loss(self, refused: Any, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", x_train=np.ones((20, 8, 8)), y_train=np.eye(10)[np.arange(20) % 10])
        refused("y_train is one-hot", data=tmp_path / "d.npz")

    def test_a_missing_key(self, refused: Any, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", images=np.ones((20, 8, 8)), y_train=np.ones(20))
        refused("has no x_train: it holds images, y_train", data=tmp_path / "d.npz")

    def test_too_few_examples_to_validate(self, refused: Any, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", x_train=np.ones((2, 8, 8)), y_train=np.ones(2))
        refused("2 examples are too few to split 20% of them off", data=tmp_path / "d.npz")

    @pytest.mark.parametrize("words", ["some words", "PK"])
    def test_a_text_file(self, refused: Any, tmp_path: Path, words: str) -> None:
        (tmp_path / "d.npz").write_text(words)
        refused("d.npz is no .npz file", data=tmp_path / "d.npz")

    def test_pickled_objects(self, refused: Any, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", x_train=np.array([{}] * 20, object), y_train=np.ones(20))
        refused("an array of Python objects", data=tmp_path / "d.npz")

    def test_a_function_that_ends_the_process(self, refused: Any, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text("import os\n\n\ndef load():\n    os._exit(4)\n")
        refused("the process ended with code 4 and no answer", data=f"{tmp_path / 'mine.py'}:load")

    @pytest.mark.parametrize(("compiled", "words"), [(False, "was not compiled"), (True, "computes NaN or infinity")])
    def test_models(self, refused: Any, tmp_path: Path, compiled: bool, words: str) -> None:
        import keras

        layers = keras.layers
        scaled = [layers.Flatten(), layers.Rescaling(1e30), layers.Rescaling(1e30), layers.Dense(10)]
        net = keras.Sequential([keras.Input((8, 8)), *scaled])
        if compiled:
            net.compile("sgd", "sparse_categorical_crossentropy")
        net.save(tmp_path / "m.keras")
        refused(words, model=tmp_path / "m.keras")

    def test_no_scheduler(self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bnfold.jobs.cluster._CONNECT_SECONDS", 0.5)
        line = arguments(model, DIGITS, tmp_path / "s.sqlite", "--format", "text", "--scheduler", "tcp://127.0.0.1:9")
        assert_sentence(line, "there is no Dask scheduler at tcp://127.0.0.1:9")

    def test_every_run_diverges(self, model: Path, tmp_path: Path) -> None:
        more = ("--format", "text", "--lr", "1e30", "--seeds", "1", "--arms", "none,none")
        store = tmp_path / "s.sqlite"
        assert_sentence(arguments(model, DIGITS, store, *more), "every run of the arm none diverged")
        assert len(finished(store)) == 2

    def test_a_run_that_takes_too_long(self, model: Path, tmp_path: Path) -> None:
        store = tmp_path / "s.sqlite"
        line = arguments(model, DIGITS, store, "--format", "text", "--timeout", "0.01")
        assert_sentence(line, "the time limit of 0.01 s was reached")

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            (("--lr", "fast"), "is not a list of positive numbers"),
            (("--arms", "behind,none"), "not 'behind'"),
            (("--plot", "a.pdf"), ".svg or .png"),
            (("--plot", "no_such_folder/a.svg"), "cannot be written: there is no folder"),
            (("--seeds", "41"), "1 to 40 seeds"),
        ],
    )
    def test_arguments(self, model: Path, tmp_path: Path, more: tuple[str, ...], words: str) -> None:
        outcome = command_line.bnfold(*arguments(model, DIGITS, tmp_path / "s.sqlite", "--format", "text", *more))
        assert outcome.code == 2
        assert words in " ".join(outcome.err.split())

    def test_a_file_that_is_no_store(self, model: Path, tmp_path: Path) -> None:
        store = tmp_path / "s.sqlite"
        store.write_text("something else")
        assert_sentence(arguments(model, DIGITS, store, "--format", "text"), "is not a store")
        assert store.read_text() == "something else"


class TestResult:
    def test_table(self, done: tuple[Path, dict[str, Any]]) -> None:
        result = done[1]
        assert (result["metric"], result["judged_on"]) == ("accuracy", "test")
        assert [arm["arm"] for arm in result["arms"]] == ARMS
        for arm in result["arms"]:
            assert len(arm["runs"]) == SEEDS
            assert [rate["learning_rate"] for rate in arm["validation_by_rate"]] == RATES
            assert all(len(rate["scores"]) == SEEDS for rate in arm["validation_by_rate"])
            assert all(0 < score < 1 for score in arm["scores"])
        assert "no clear difference" in result["verdict"]
        assert (result["lowest_p"], result["lowest_p_holm"]) == (0.0625, 0.1875)
        assert b"<svg" in done[0].with_name("p.svg").read_bytes()

    def test_what_it_costs_to_ship(self, done: tuple[Path, dict[str, Any]]) -> None:
        """Before a zero-padded convolution a BN behind the activation stays."""
        none, before, after = (arm["shipped"] for arm in done[1]["arms"])
        assert (none["batchnorms"], none["batchnorms_left"]) == (0, 0)
        assert (before["batchnorms"], before["batchnorms_left"]) == (1, 0)
        assert (after["batchnorms"], after["batchnorms_left"]) == (1, 1)
        assert before["parameters"] == none["parameters"] < after["parameters"]
        assert all(shipped["equivalent"] for shipped in (none, before, after))
        assert after["relative"] > 0

    def test_nothing_is_done_twice(self, model: Path, few: Path, done: tuple[Path, dict[str, Any]]) -> None:
        store, result = done
        before = finished(store)
        assert len(before) == RUNS + len(ARMS) + 1
        again = command_line.bnfold(*arguments(model, few, store))
        assert json.loads(again.out) == result
        assert finished(store) == before

    def test_another_experiment_does_not_take_the_store(
        self, model: Path, few: Path, done: tuple[Path, dict[str, Any]]
    ) -> None:
        store, _ = done
        before = finished(store)
        outcome = command_line.bnfold(*arguments(model, few, store, "--epochs", "3"))
        assert outcome.code == 2
        assert "is the store of another experiment, with other epochs (1 there, 3 here)" in outcome.err
        assert finished(store) == before


def test_killed_and_resumed(model: Path, few: Path, done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """With kill -9 in the middle: the next call trains the rest, and two workers give the same as one."""
    store = tmp_path / "s.sqlite"
    line = arguments(model, few, store, "--workers", "2")
    process = begun(store, line, RUNS // 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = finished(store)
    assert RUNS // 2 <= len(before) < RUNS
    outcome = bnfold(*line, seconds=SECONDS)
    assert outcome.returncode == 0, outcome.stderr
    after = finished(store)
    assert len(after) == RUNS + len(ARMS) + 1
    assert all(after[key] == when for key, when in before.items())
    assert lasting(json.loads(outcome.stdout)) == lasting(done[1])


def test_on_a_cluster(model: Path, few: Path, done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """A real Dask scheduler with two workers as processes, one of which is killed on the way and replaced."""
    store = tmp_path / "s.sqlite"
    with cluster(tmp_path) as dask:
        process = begun(store, arguments(model, few, store, "--scheduler", dask.address), RUNS // 4)
        dask.workers[0].kill()
        dask.workers.append(dask.add_worker())
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    assert lasting(json.loads(out)) == lasting(done[1])
