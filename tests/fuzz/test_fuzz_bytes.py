"""A short run of the mutation fuzzer, and every file it ever found something with."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest
from fuzz_bytes import FINDINGS, case, outcome, sample_models
from shrink import shrink
from wire_damage import field, parts, varint


@pytest.mark.parametrize("block", range(2))
def test_damaged_models_are_refused_or_folded(tmp_path, block):
    models = sample_models()
    found = {number: outcome(case(7, number, models), tmp_path) for number in range(100 * block, 100 * block + 100)}
    faults = {number: answer for number, answer in found.items() if answer.startswith("FAULT")}
    assert not faults
    assert set(found.values()) == {"refused", "folded"}, "the damage is too mild, or too heavy, to say anything"


@pytest.mark.parametrize("path", sorted(FINDINGS.glob("*.gz")), ids=lambda path: path.name)
def test_what_was_found_once(tmp_path: Path, path: Path):
    assert not outcome(gzip.decompress(path.read_bytes()), tmp_path).startswith("FAULT")


def test_a_case_is_the_same_every_time():
    models = sample_models()
    assert case(1, 2, models) == case(1, 2, models)
    assert case(1, 2, models) != case(1, 3, models)


def test_faults_are_named_and_made_small(tmp_path, monkeypatch):
    def survive(data, folder):
        if b"fault" in data:
            raise ZeroDivisionError

    monkeypatch.setattr("fuzz_bytes.survive", survive)
    rng = random.Random(0)
    inner = b"".join(field(number, rng.randbytes(100)) for number in range(1, 9)) + field(9, b"fault")
    data = field(1, b"much") + field(7, inner) + varint(2 << 3) + varint(300)
    assert outcome(data, tmp_path) == "FAULT ZeroDivisionError in survive"
    small = shrink(data, lambda small: outcome(small, tmp_path) == "FAULT ZeroDivisionError in survive")
    assert small == field(7, field(9, b"fault"))
    assert [part.number for part in parts(data)] == [1, 7, 2]
