"""A coverage-guided fuzzer: atheris damages the sample models and keeps what reaches new code.

    pip install atheris
    python tests/fuzz/fuzz_atheris.py CORPUS_FOLDER -max_total_time=300

Arguments are libFuzzer's. The folder collects what reached new code; a finding is written to
``crash-…`` in the working directory, and ``python tests/fuzz/fuzz_bytes.py --keep crash-…`` makes
it small and keeps it among the findings.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import atheris  # noqa: E402

with atheris.instrument_imports(include=["bnfold"]):
    import bnfold.analysis
    import bnfold.api
    import bnfold.folding
    import bnfold.formats.onnx.loader
    import bnfold.formats.onnx.writer  # noqa: F401

from fuzz_bytes import sample_models  # noqa: E402
from mutators import LEVELS  # noqa: E402
from survive import survive  # noqa: E402

#: What libFuzzer may add to a file of the corpus, in bytes.
MAX_BYTES = 1 << 18


def main() -> None:
    models = sample_models()
    corpus = next((Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")), None)
    if corpus is not None:
        corpus.mkdir(exist_ok=True)
        for number, model in enumerate(models):
            (corpus / f"sample_{number}").write_bytes(model)

    def damage(data: bytes, max_size: int, seed: int) -> bytes:
        """One more change, by the mutators that know the format or by libFuzzer's own."""
        rng = random.Random(seed)
        if rng.random() < 0.2:
            return bytes(atheris.Mutate(data, max_size))
        return rng.choice(rng.choice(LEVELS))(rng, data, rng.choice(models))[:max_size]

    with tempfile.TemporaryDirectory() as folder:
        atheris.Setup(
            [*sys.argv, f"-max_len={MAX_BYTES}", "-rss_limit_mb=4096", "-timeout=60"],
            lambda data: survive(data, Path(folder)),
            custom_mutator=damage,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
