"""Data for an experiment: what is taken, how it is split and ordered, and one sentence for whatever is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfold.errors import UsageError
from bnfold.experiment.data import Data, Examples, epoch_order, identity_of, load_data

X = np.arange(40.0).reshape(20, 2)
Y = np.arange(20)


def npz(folder: Path, **arrays: Any) -> str:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return str(path)


def script(folder: Path, body: str) -> str:
    path = folder / "mine.py"
    path.write_text(f"import numpy as np\n\nX, Y = np.arange(40.0).reshape(20, 2), np.arange(20)\n\n{body}\n")
    return f"{path}:load"


def test_lists_of_one_array_for_each_input_and_lists_of_examples(tmp_path: Path) -> None:
    several = load_data(script(tmp_path, "def load():\n    return {'x_train': [X, X[:, :1]], 'y_train': [Y, Y]}"))
    assert several.train.count == 20
    assert [array.shape for array in (*several.train.x, *several.train.y)] == [(20, 2), (20, 1), (20,), (20,)]
    rows = load_data(script(tmp_path, "def load():\n    return {'x_train': list(X), 'y_train': list(Y)}"))
    assert (rows.train.x.shape, rows.train.y.shape) == ((20, 2), (20,))


class TestNpz:
    def test_all_parts(self, tmp_path: Path) -> None:
        found = load_data(npz(tmp_path, x_train=X, y_train=Y, x_val=X[:3], y_val=Y[:3], x_test=X[:2], y_test=Y[:2]))
        assert (found.train.count, found.val and found.val.count, found.test and found.test.count) == (20, 3, 2)

    def test_training_data_alone(self, tmp_path: Path) -> None:
        found = load_data(npz(tmp_path, x_train=X, y_train=Y))
        assert (found.val, found.test) == (None, None)

    @pytest.mark.parametrize(
        ("arrays", "words"),
        [
            ({"x_train": X}, "has no y_train: it holds x_train"),
            ({"images": X}, "has no x_train and no y_train: it holds images"),
            ({"x_train": X, "y_train": Y, "x_test": X}, "has no y_test"),
            ({"x_train": X, "y_train": Y[:5]}, "x_train has 20 examples and y_train has 5"),
            ({"x_train": X[:0], "y_train": Y[:0]}, "x_train is empty"),
            ({"x_train": np.full((20, 2), np.nan), "y_train": Y}, "x_train holds values that are NaN or infinite"),
            ({"x_train": X, "y_train": np.array(["a"] * 20)}, "y_train is no array of numbers"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
        with pytest.raises(UsageError, match=words):
            load_data(npz(tmp_path, **arrays))

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"nothing\.npz cannot be read as data: no such file"):
            load_data(str(tmp_path / "nothing.npz"))
        damaged = tmp_path / "damaged.npz"
        for content in (b"PK\x03\x04 and no more", b"", b"some words"):
            damaged.write_bytes(content)
            with pytest.raises(UsageError, match=r"damaged\.npz is no \.npz file"):
                load_data(str(damaged))
        np.savez(damaged, x_train=X, y_train=Y)
        content = bytearray(damaged.read_bytes())
        content[150] ^= 255  # in the numbers of the first array
        damaged.write_bytes(content)
        with pytest.raises(UsageError, match="cannot be read as data: bad CRC"):
            load_data(str(damaged))

    def test_a_single_array_under_the_name_of_an_archive(self, tmp_path: Path) -> None:
        np.save(tmp_path / "one.npy", X)
        path = (tmp_path / "one.npy").rename(tmp_path / "one.npz")
        with pytest.raises(UsageError, match=r"is no \.npz file"):
            load_data(str(path))

    def test_pickled_objects_are_not_loaded(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="an array of Python objects, and to read one may run any code"):
            load_data(npz(tmp_path, x_train=np.array([{}], object), y_train=Y))


class TestFunctions:
    @pytest.mark.parametrize(
        ("returned", "parts"),
        [
            ("(X, Y)", (20, None, None)),
            ("((X, Y), (X[:4], Y[:4]))", (20, None, 4)),
            ("((X, Y), (X[:4], Y[:4]), (X[:3], Y[:3]))", (20, 4, 3)),
            ("{'x_train': X, 'y_train': Y, 'x_val': X[:5], 'y_val': Y[:5]}", (20, 5, None)),
            ("{'train': (X, Y), 'test': (X[:2], Y[:2])}", (20, None, 2)),
            ("{'x_train': {'a': X, 'b': X}, 'y_train': Y}", (20, None, None)),
        ],
    )
    def test_what_it_may_return(self, tmp_path: Path, returned: str, parts: tuple[int | None, ...]) -> None:
        found = load_data(script(tmp_path, f"def load():\n    return {returned}"))
        assert tuple(part and part.count for part in (found.train, found.val, found.test)) == parts

    def test_the_seed_is_passed_to_who_takes_it(self, tmp_path: Path) -> None:
        spec = script(tmp_path, "def load(seed):\n    return X + seed, Y")
        assert load_data(spec, seed=7).train.x[0, 0] == 7

    def test_a_module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "data_of_mine.py").write_text(
            "import numpy as np\ndef load():\n    return np.ones((4, 2)), np.ones(4)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        assert load_data("data_of_mine:load").train.count == 4

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ("def load():\n    raise KeyError('x')", "mine.py:load raised KeyError: 'x'"),
            ("def other():\n    pass", "mine.py has no function load"),
            ("def load():\n    return 3", "returned an int; it should return a dict with x_train"),
            ("def load():\n    return None", "returned nothing; it should return"),
            ("def load():\n    return X, Y, X, Y", "returned a tuple of 4; it should return"),
            ("def load():\n    return {'train': (X, Y), 'vall': (X, Y)}", "returned vall, which are none of"),
            ("def load():\n    return {'train': 3}", "returned an int for a set of examples"),
            ("def load(:", "mine.py:load raised SyntaxError"),
            ("def load():\n    raise SystemExit(3)", "mine.py:load ended the process, with code 3"),
            ("def load(needed):\n    pass", "raised TypeError: load"),
            (
                "def load():\n    return {'x_train': [[1, 2], [3]], 'y_train': [0, 1]}",
                r"x_train is no array of numbers, but object \(2,\)",
            ),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path: Path, body: str, words: str) -> None:
        with pytest.raises(UsageError, match=words):
            load_data(script(tmp_path, body))

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ("data.csv", "not 'data.csv'"),
            ("nowhere.py:load", "there is no file nowhere.py"),
            ("no_such_module:load", "raised ModuleNotFoundError"),
        ],
    )
    def test_specs_that_are_none(self, spec: str, words: str) -> None:
        with pytest.raises(UsageError, match=words):
            load_data(spec)


class Batches:
    """What a PyDataset looks like."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return X, Y

    def on_epoch_end(self) -> None: ...


class TestSplit:
    def test_every_example_is_in_one_part(self) -> None:
        split = Data(Examples(X, Y), None, None).split(3, 0.25)
        assert split.val is not None
        assert sorted([*split.train.y, *split.val.y]) == list(Y)
        assert split.val.count == 5
        assert np.array_equal(split.train.x, X[split.train.y])

    def test_by_seed(self) -> None:
        data = Data(Examples(X, Y), None, None)
        first, again, other = (data.split(seed, 0.25).val for seed in (3, 3, 4))
        assert first is not None
        assert again is not None
        assert other is not None
        assert list(first.y) == list(again.y)
        assert list(first.y) != list(other.y)

    def test_what_is_there_is_kept(self) -> None:
        data = Data(Examples(X, Y), Examples(X[:2], Y[:2]), None)
        assert data.split(0, 0.5) is data

    def test_too_few(self) -> None:
        with pytest.raises(UsageError, match="2 examples are too few"):
            Data(Examples(X[:2], Y[:2]), None, None).split(0, 0.2)

    def test_datasets_need_one_of_their_own(self) -> None:
        with pytest.raises(UsageError, match="a dataset cannot be split"):
            Data(Examples(Batches()), None, None).split(0, 0.2)


def test_the_order_of_an_epoch() -> None:
    """A permutation by seed and epoch, whatever else was drawn."""
    orders = {(seed, epoch): tuple(epoch_order(seed, epoch, 50)) for seed in range(3) for epoch in range(3)}
    assert len(set(orders.values())) == 9
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert orders[1, 2] == tuple(epoch_order(1, 2, 50))


def test_identity_follows_the_content(tmp_path: Path) -> None:
    spec = npz(tmp_path, x_train=X, y_train=Y)
    before = identity_of(spec)
    assert identity_of(spec) == before
    npz(tmp_path, x_train=X + 1, y_train=Y)
    assert identity_of(spec) != before
    assert identity_of("module:function") == "module:function"
