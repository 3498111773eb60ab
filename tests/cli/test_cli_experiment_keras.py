"""``bnfold experiment`` from end to end: on digits, killed and resumed, on a cluster, and with everything wrong."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dask_cluster import cluster
from process import SAMPLES, assert_one_sentence, command, environment

pytestmark = pytest.mark.slow

DIGITS = SAMPLES / "digits.npz"


def bnfold(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A whole bnfold process, with the time that TensorFlow takes on a busy machine."""
    return subprocess.run(
        command(*arguments), env=environment(), capture_output=True, text=True, check=False, timeout=600
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import keras

    layers = keras.layers
    net = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, padding="same", activation="relu", name="conv"),
            layers.Conv2D(4, 3, padding="same", activation="relu", name="conv2"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", name="last"),
        ]
    )
    net.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    path = tmp_path_factory.mktemp("model") / "cnn.keras"
    net.save(path)
    return path


def arguments(model: Path, store: Path, *more: str, data: Path | str = DIGITS) -> list[str]:
    """Two arms, two seeds, one rate; what comes later takes the place of what came before."""
    return ["experiment", str(model), "--data", str(data), "--arms", "none,after", "--seeds", "2", "--lr", "0.01",
            "--epochs", "2", "--batch-size", "128", "--format", "json", "--store", str(store), *more]  # fmt: skip


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


@pytest.fixture(scope="module")
def done(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The store and the result of an experiment on one worker."""
    store = tmp_path_factory.mktemp("store") / "s.sqlite"
    outcome = bnfold(*arguments(model, store, "--workers", "1", "--plot", str(store.with_name("p.svg"))))
    assert outcome.returncode == 0, outcome.stderr
    return store, json.loads(outcome.stdout)


class TestResult:
    def test_table(self, done: tuple[Path, dict[str, Any]]) -> None:
        result = done[1]
        assert (result["metric"], result["judged_on"]) == ("accuracy", "test")
        assert [arm["arm"] for arm in result["arms"]] == ["none", "after"]
        assert all(len(run["epochs"]) == 2 for arm in result["arms"] for run in arm["runs"])
        assert all(0.2 < score < 1 for arm in result["arms"] for score in arm["scores"])
        assert "no clear difference" in result["verdict"]
        assert result["lowest_p"] == 0.5
        assert "learning curves" not in result["verdict"]
        assert b"<svg" in done[0].with_name("p.svg").read_bytes()

    def test_what_it_costs_to_ship(self, done: tuple[Path, dict[str, Any]]) -> None:
        """Before a zero-padded convolution a BN behind the activation stays; the other goes into the Dense."""
        none, after = (arm["shipped"] for arm in done[1]["arms"])
        assert (none["batchnorms"], none["batchnorms_left"]) == (0, 0)
        assert (after["batchnorms"], after["batchnorms_left"]) == (2, 1)
        assert after["parameters"] > none["parameters"]
        assert none["equivalent"]
        assert after["equivalent"]
        assert after["relative"] > 0

    def test_nothing_is_done_twice(self, model: Path, done: tuple[Path, dict[str, Any]]) -> None:
        store, result = done
        before = finished(store)
        again = bnfold(*arguments(model, store))
        assert json.loads(again.stdout) == result
        assert finished(store) == before

    def test_another_experiment_does_not_take_the_store(self, model: Path, done: tuple[Path, dict[str, Any]]) -> None:
        store, _ = done
        before = finished(store)
        outcome = bnfold(*arguments(model, store, "--epochs", "3"))
        assert outcome.returncode == 2
        assert "is the store of another experiment, with other epochs (2 there, 3 here)" in outcome.stderr
        assert finished(store) == before


def test_killed_and_resumed(model: Path, done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """With kill -9 once one run is done: the next call trains the rest, on two workers, and gives the same."""
    store = tmp_path / "s.sqlite"
    line = command(*arguments(model, store, "--workers", "2"))
    process = subprocess.Popen(line, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (store.exists() and finished(store)):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = finished(store)
    outcome = bnfold(*arguments(model, store, "--workers", "2"))
    assert outcome.returncode == 0, outcome.stderr
    after = finished(store)
    assert len(after) == 4 + 2 + 1
    assert all(after[key] == when for key, when in before.items())
    assert lasting(json.loads(outcome.stdout)) == lasting(done[1])


def test_on_a_cluster(model: Path, done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """A real Dask scheduler with two workers as processes, one of which is killed on the way."""
    store = tmp_path / "s.sqlite"
    with cluster(tmp_path) as dask:
        line = command(*arguments(model, store, "--scheduler", dask.address))
        process = subprocess.Popen(line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not (store.exists() and finished(store)):
            assert process.poll() is None
            time.sleep(0.05)
        dask.workers[0].kill()
        out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert lasting(json.loads(out)) == lasting(done[1])


class TestMistakes:
    """One sentence each, exit code 2, and no store where none was."""

    @pytest.fixture
    def refused(self, model: Path, tmp_path: Path) -> Any:
        store = tmp_path / "s.sqlite"

        def check(*words: str, more: tuple[str, ...] = (), data: Path | str = DIGITS) -> None:
            line = arguments(model, store, "--format", "text", *more, data=data)
            assert_one_sentence(bnfold(*line), *words)
            assert not store.exists()

        return check

    def test_data_of_the_wrong_shape(self, refused: Any, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", x_train=np.ones((20, 8, 7)), y_train=np.ones(20))
        refused("x_train has examples of shape (8, 7)", data=tmp_path / "d.npz")

    def test_a_function_that_raises(self, refused: Any, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text("def load():\n    raise RuntimeError('no data today')\n")
        refused("mine.py:load raised RuntimeError: no data today", data=f"{tmp_path / 'mine.py'}:load")

    def test_a_loss_that_does_not_fit(self, refused: Any) -> None:
        refused("cannot be trained on", more=("--loss", "categorical_crossentropy"))

    def test_no_scheduler(self, model: Path, tmp_path: Path) -> None:
        outcome = bnfold(
            *arguments(model, tmp_path / "s.sqlite", "--format", "text", "--scheduler", "tcp://127.0.0.1:9")
        )
        assert_one_sentence(outcome, "there is no Dask scheduler at tcp://127.0.0.1:9")

    def test_every_run_diverges(self, model: Path, tmp_path: Path) -> None:
        more = ("--format", "text", "--lr", "1e30", "--optimizer", "sgd", "--seeds", "1", "--arms", "none,none")
        store = tmp_path / "s.sqlite"
        assert_one_sentence(bnfold(*arguments(model, store, *more)), "every run of the arm none diverged")
        assert len(finished(store)) == 2

    def test_a_run_that_takes_too_long(self, model: Path, tmp_path: Path) -> None:
        store = tmp_path / "s.sqlite"
        outcome = bnfold(*arguments(model, store, "--format", "text", "--timeout", "0.01"))
        assert_one_sentence(outcome, "the time limit of 0.01 s was reached")

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            (("--lr", "fast"), "is not a list of positive numbers"),
            (("--arms", "behind,none"), "not 'behind'"),
            (("--plot", "a.pdf"), ".svg or .png"),
            (("--seeds", "41"), "1 to 40 seeds"),
        ],
    )
    def test_arguments(self, model: Path, tmp_path: Path, more: tuple[str, ...], words: str) -> None:
        outcome = bnfold(*arguments(model, tmp_path / "s.sqlite", "--format", "text", *more))
        assert outcome.returncode == 2
        assert words in " ".join(outcome.stderr.split())

    def test_a_file_that_is_no_store(self, model: Path, tmp_path: Path) -> None:
        store = tmp_path / "s.sqlite"
        store.write_text("something else")
        assert_one_sentence(bnfold(*arguments(model, store, "--format", "text")), "is not a store")
        assert store.read_text() == "something else"
