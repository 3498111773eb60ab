"""Makes the scripts' modules importable in ``bench_pieces.py``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
