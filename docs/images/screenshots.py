"""Makes the pictures of docs/report.md anew: ``PYTHONPATH=tests/support python docs/images/screenshots.py MOBILEONE``.

MOBILEONE is an ONNX file of MobileOne-S0 in the form it is trained in; the other models are in sample_models/.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from browser import Visit, chromium

HERE = Path(__file__).parent
SAMPLES = HERE.parent.parent / "sample_models"
SIZE = {"width": 1080, "height": 760}


def report(folder: Path, name: str, *arguments: str | Path) -> Path:
    page = folder / f"{name}.html"
    command = [sys.executable, "-m", "bnfold", *arguments, "--report", page, "--quiet"]
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, cwd=folder)
    assert done.returncode in (0, 1), command  # 1 where there are findings
    return page


def take(browser: Any, page: Path, name: str, *, scheme: str = "light", show: str = "", near: str = "") -> None:
    """A picture of the window: from the top, at the BN ``show``, opened, or at what a search for ``near`` finds."""
    visit = Visit(browser, page, viewport=SIZE, color_scheme=scheme)
    if show:
        visit.page.locator("button.open", has_text=show).click()
        visit.page.wait_for_selector(".near .pane[data-ready=yes] >> nth=1")
        visit.page.evaluate("scrollTo({top: document.querySelector('.bns').offsetTop, behavior: 'instant'})")
    if near:
        visit.drawn()
        visit.page.get_by_label("Search the graph").fill(near)
        visit.page.get_by_label("Search the graph").press("Enter")
        visit.until("document.querySelectorAll('.graph .node[data-selected]').length === 2")
        visit.page.evaluate("scrollTo({top: document.querySelector('.legend').offsetTop - 10, behavior: 'instant'})")
    visit.page.wait_for_timeout(500)
    visit.page.screenshot(path=HERE / f"report-{name}.png")
    visit.check()
    visit.page.close()


def main(mobileone: str) -> None:
    digits, folded = Path("sample_models/digits_repvgg.onnx"), "folded.onnx"
    several = sorted(path.relative_to(SAMPLES.parent) for path in SAMPLES.glob("digits_*.onnx"))
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        folder = Path(name)
        (folder / SAMPLES.name).symlink_to(SAMPLES)
        take(browser, report(folder, "fold", "fold", digits, "-o", folded), "fold")
        take(browser, report(folder, "verify", "verify", digits, folded), "verify")
        take(browser, report(folder, "several", "analyze", *several), "several")
        stays = report(folder, "stays", "analyze", Path("sample_models/inception_post.keras"))
        take(browser, stays, "stays", show="bn_stem")
        graph = report(folder, "graph", "analyze", Path(mobileone).absolute())
        take(browser, graph, "graph", scheme="dark", near="stages.1.0/conv_kxk.1/bn")


if __name__ == "__main__":
    main(sys.argv[1])
