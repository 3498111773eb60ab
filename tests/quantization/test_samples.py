"""Samples of data as feeds: what is taken, and what is told of what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bnfold.errors import UsageError
from bnfold.quantization import read_samples
from bnfold.verification.runtime.sessions import ValueSpec

IMAGE = ValueSpec("image", "tensor(float)", "tensor", np.dtype(np.float32), ("N", 1, 2, 2))
SCALE = ValueSpec("scale", "tensor(float)", "tensor", np.dtype(np.float32), (None, 3))


def saved(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


def test_every_second_sample_is_held_out(tmp_path: Path) -> None:
    images = np.arange(70, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 2), np.float32)
    samples = read_samples(saved(tmp_path, image=images, label=np.arange(70)), [IMAGE])
    assert samples.counts == (35, 35)
    assert [len(feed["image"]) for feed in samples.held_out] == [32, 3]
    calibration = np.concatenate([feed["image"] for feed in samples.calibration])[:, 0, 0, 0]
    held_out = np.concatenate([feed["image"] for feed in samples.held_out])[:, 0, 0, 0]
    assert calibration.tolist() == list(range(0, 70, 2))
    assert held_out.tolist() == list(range(1, 70, 2))


def test_a_batch_size_of_the_models_own_is_kept(tmp_path: Path) -> None:
    fixed = ValueSpec("image", "tensor(float)", "tensor", np.dtype(np.float32), (4, 1, 2, 2))
    samples = read_samples(saved(tmp_path, image=np.zeros((22, 1, 2, 2))), [fixed])
    assert [feed["image"].shape for feed in samples.calibration] == [(4, 1, 2, 2)] * 2
    assert samples.calibration[0]["image"].dtype == np.float32


def test_one_array_is_the_only_input(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.zeros((4, 1, 2, 2), np.float32))
    assert read_samples(tmp_path / "data.npy", [IMAGE]).counts == (2, 2)
    assert read_samples(saved(tmp_path, whatever=np.zeros((4, 1, 2, 2))), [IMAGE]).counts == (2, 2)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"image": np.zeros((1, 1, 2, 2))}, "1 sample; 2 are needed"),
        ({"image": np.full((4, 1, 2, 2), np.nan)}, "image holds values that are NaN or infinite"),
        ({"image": np.zeros((4, 1, 2, 3))}, r"image is float64 \[4, 1, 2, 3\], the model takes"),
        ({"image": np.zeros((4, 2, 2))}, "the model takes"),
        ({"image": np.zeros((4, 1, 2, 2)), "scale": np.zeros((5, 3))}, "different numbers of samples"),
        ({"image": np.zeros((4, 1, 2, 2)), "other": np.zeros((4, 3))}, "no samples for the input 'scale'"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    inputs = [IMAGE, SCALE] if len(arrays) > 1 else [IMAGE]
    with pytest.raises(UsageError, match=words):
        read_samples(saved(tmp_path, **arrays), inputs)


def test_a_file_that_is_no_data_is_told(tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(b"no zip")
    for name in ("data.npz", "missing.npz"):
        with pytest.raises(UsageError, match="cannot be read"):
            read_samples(tmp_path / name, [IMAGE])
