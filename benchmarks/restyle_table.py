"""Restyle, train for two epochs, fold and verify: the sample models and three networks of keras.applications.

    python benchmarks/restyle_table.py                    # all of them: some twenty minutes of one core
    python benchmarks/restyle_table.py mlp_mixed --json report.json

Each model is restyled to every style, and from ``none`` back to ``before``. The restyled model is trained on random
pictures: what is shown is that the way to the end works, not what a network learns. Weights of keras.applications
are random, with the BN statistics of random activations.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from compare import progress
from harness.report import setting, write_json
from harness.tables import MISSING, Table, number
from harness.tools import ROOT, own_version, versions_of

import bnfold
from bnfold import Style
from bnfold.restyling import Norm

SAMPLES = sorted(path for path in (ROOT / "sample_models").iterdir() if path.suffix in (".keras", ".h5"))
#: Networks of keras.applications and the size of their pictures here.
APPLICATIONS = {"MobileNetV2": 32, "ResNet50": 32, "InceptionV3": 75}
#: A style, and the one that the model is brought to before.
WAYS = (("before", ""), ("after", ""), ("none", ""), ("before", "none"))
EXAMPLES, CLASSES, EPOCHS = 8, 10, 2
HEADERS = ("model", "style", "exact", "needs training", "verified", "BN", "loss", "BN left", "after folding")


def sources(names: Sequence[str], folder: Path) -> Iterator[Path]:
    """The files of the models asked for, all where none is named."""
    for path in SAMPLES:
        if not names or path.stem in names:
            yield path
    for name, size in APPLICATIONS.items():
        if not names or name in names:
            progress(f"building {name}")
            yield build(name, size, folder / f"{name}.keras")


def build(name: str, size: int, path: Path) -> Path:
    """A network with random weights, and statistics as if it had been trained on random pictures."""
    import keras

    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=CLASSES)
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(random.normal(size=layer.moving_mean.shape) * 0.1)
            layer.moving_variance.assign(random.uniform(0.5, 2, layer.moving_variance.shape))
            layer.beta.assign(random.normal(size=layer.beta.shape) * 0.1)
    model.save(path)
    return path


def way(source: Path, norm: str, via: str, folder: Path) -> dict[str, Any]:
    """One model brought to one style, trained, folded and verified."""
    if via:
        between = folder / f"{source.stem}-{via}.keras"
        bnfold.restyle_file(source, between, Style(norm=Norm(via)))
        source = between
    restyled, trained, folded = (folder / f"{source.stem}-{stage}.keras" for stage in ("restyled", "trained", "folded"))
    progress(f"{source.stem}: restyling to {norm}")
    result = bnfold.restyle_file(source, restyled, Style(norm=Norm(norm)))
    check = result.verification or result.agreement
    row: dict[str, Any] = {
        "model": source.stem,
        "style": f"{via}, then {norm}" if via else norm,
        "exact": len(result.changes) - len(result.inexact),
        "inexact": len(result.inexact),
        "verdict": check.sentence() if check is not None else "",
        "written": result.path is not None,
    }
    if result.path is None:
        return row
    progress(f"{source.stem}: training")
    row["batchnorms"], row["loss"] = train(restyled, trained)
    progress(f"{source.stem}: folding")
    done = bnfold.fold_file(trained, folded)
    row["folded"] = done.summary.after.batchnorms
    row["verdict_folded"] = done.verification.verdict if done.verification is not None else ""
    return row


def train(source: Path, target: Path) -> tuple[int, float]:
    """Train for two epochs; how many BN there are, and the loss at the end."""
    import keras

    model = keras.models.load_model(source)
    if not model.compiled:
        model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
    random = np.random.default_rng(0)
    images = random.random((EXAMPLES, *model.input_shape[1:]), np.float32)
    labels = random.integers(0, model.output_shape[-1], EXAMPLES)
    history = model.fit(images, labels, batch_size=4, epochs=EPOCHS, verbose=0)
    model.save(target)
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    return len(norms), float(history.history["loss"][-1])


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """What became of each model on each way; one that is not written differs from the original."""
    made = Table("restyle → train → fold → verify", HEADERS)
    for row in rows:
        made.add(
            row["model"],
            row["style"],
            str(row["exact"]),
            str(row["inexact"]),
            "yes" if row["written"] else "no",
            str(row.get("batchnorms", MISSING)),
            number(row.get("loss")),
            str(row.get("folded", MISSING)),
            row.get("verdict_folded", MISSING),
        )
    return made


def where() -> str:
    """Where and when this was measured."""
    versions = versions_of(sys.executable, ("keras", "tensorflow", "tensorflow-cpu"))
    return setting([f"bnfold {own_version()}", *(f"{name} {version}" for name, version in versions.items())])


def measure(names: Sequence[str], report: Path | None = None) -> list[dict[str, Any]]:
    """Every way of the models asked for; ``report`` is written after each, should the rest take too long."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for path in sources(names, Path(name)):
            for norm, via in WAYS:
                rows.append(way(path, norm, via, Path(name)))
                if report is not None:
                    write_json(report, where(), rows)
    progress("")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", help="sample models and networks, by name; default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to this file too")
    options = parser.parse_args(arguments)
    known = {*(path.stem for path in SAMPLES), *APPLICATIONS}
    if not set(options.models) <= known:
        parser.error(f"unknown models; there are {', '.join(sorted(known))}")
    rows = measure(options.models, options.json)
    print(where())
    table(rows).print()


if __name__ == "__main__":
    main()
