"""Other libraries' words in sentences of our own."""

from __future__ import annotations

from bnfold.errors import one_line, shortened


def test_words_stand_on_one_line() -> None:
    assert one_line(ValueError("a\n  b\tc ")) == "a b c"
    assert one_line(ValueError()) == "ValueError"
    assert one_line("plain") == "plain"


def test_words_are_cut_at_the_limit() -> None:
    assert shortened(ValueError("x" * 300)) == "x" * 300
    assert shortened(ValueError("x" * 301)) == "x" * 299 + "…"
    assert shortened("y" * 12, 10) == "y" * 9 + "…"
