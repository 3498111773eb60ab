"""Modules of the user's own are found in the working directory, and hide nothing that is installed for long."""

import sys
from pathlib import Path

import pytest

from bnfold.isolation import Limits, Returned, run, search_path
from bnfold.usercode import import_user_module


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_working_directory_comes_first(here: Path) -> None:
    (here / "calendar_of_mine.py").write_text("import colours_of_mine\nNAME = colours_of_mine.NAME\n")
    (here / "colours_of_mine.py").write_text("NAME = 'mine'\n")
    assert import_user_module("calendar_of_mine").NAME == "mine"


def test_afterwards_it_comes_last(here: Path) -> None:
    (here / "plain_of_mine.py").write_text("")
    import_user_module("plain_of_mine")
    assert sys.path.count(str(here)) == 1
    assert sys.path[-1] == str(here)


def test_a_module_that_fails_leaves_the_path_as_it_was_but_for_the_end(here: Path) -> None:
    before = [*sys.path]
    (here / "broken_of_mine.py").write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        import_user_module("broken_of_mine")
    assert sys.path == [*before, str(here)]


@pytest.mark.parametrize("entry", ["", ".", "lib"])
def test_other_processes_do_not_search_what_is_relative(
    here: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    (here / "lib").mkdir()
    for folder in (here, here / "lib"):
        (folder / "pickle.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.setattr(sys, "path", [entry, *sys.path])
    assert entry not in search_path()
    assert run(len, Limits(seconds=60), "four") == Returned(4)
