"""Pages of Keras models: ``restyle``, and ``equalize`` into another format."""

from __future__ import annotations

import html
import re
from pathlib import Path

import keras
from command_line import SAMPLES, bnfold
from test_page import written

import bnfold as bnfold_package

MIXED, INCEPTION = (SAMPLES / f"{name}.keras" for name in ("mlp_mixed", "inception_post"))


def test_changes_layers_and_what_is_left(tmp_path: Path) -> None:
    page = written(tmp_path / "a.html", "restyle", MIXED, "-o", tmp_path / "o.keras")
    words = page.words
    order = [words.index(text) for text in ("What was done", "Is it the same?", "Changes", "What is left as it is")]
    assert order == sorted(order)
    assert f"written to {tmp_path / 'o.keras'}" in words
    assert "bn_2 moves between dense_2 and elu_2 (elu)" in words
    assert "it is the last linear layer before an output" in words
    assert words.index("Layers before and after") < words.index("How this was made")
    assert {output["ok"] for output in page.data[0]["outputs"]} == {True}
    before, after = ({node[0] for node in page.data[0][side]["nodes"]} for side in ("before", "after"))
    states = {node[0]: node[4] for side in ("before", "after") for node in page.data[0][side]["nodes"]}
    assert {key for key, state in states.items() if state == "not needed"} == before - after
    assert {key for key, state in states.items() if state == "new"} == after - before
    assert before & after


def test_what_is_not_exact_and_refused(tmp_path: Path) -> None:
    page = written(tmp_path / "a.html", "restyle", INCEPTION, "-o", tmp_path / "o.keras", "--exact", code=1)
    assert "nothing was written: 1 of 8 changes is not exact" in page.words
    assert "1 change needs training" in page.words
    assert not (tmp_path / "o.keras").exists()


def test_names_of_layers_are_text(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>"
    inner = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, name=name),
            keras.layers.Activation("relu"),
            keras.layers.Dense(2, name="classes"),
        ]
    )
    inner.save(tmp_path / "m.keras")
    # TensorFlow itself runs no layer of such a name.
    page = written(tmp_path / "a.html", "restyle", tmp_path / "m.keras", "-o", tmp_path / "o.keras", "--no-verify")
    assert not any(tag == "img" for tag, _ in page.tags)
    assert name in page.words
    assert name in [node[0] for node in page.data[0]["before"]["nodes"]]


def test_a_notebook_shows_the_changes(tmp_path: Path) -> None:
    result = bnfold_package.restyle_file(MIXED, tmp_path / "o.keras", bnfold_package.Style())
    text = result._repr_html_()
    (change,) = result.changes
    assert "RestyleResult(1 change, 0 of them need training" in text
    assert html.escape(change.sentence) in text


def test_the_model_is_not_replaced() -> None:
    outcome = bnfold("restyle", MIXED, "--dry-run", "--report", MIXED)
    assert outcome.code == 2
    assert "is a file of this call" in outcome.err


def test_equalised_as_onnx_it_is_compared_with_the_keras_model(tmp_path: Path) -> None:
    page = written(tmp_path / "a.html", "equalize", INCEPTION, "-o", tmp_path / "o.onnx")
    found = page.data[0]["names"]
    assert found
    assert re.search(rf" {len(found)} → \d+ BN ", page.words)
