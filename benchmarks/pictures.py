"""Make the pictures of README and docs anew: what they show is what this code makes.

python benchmarks/pictures.py          after `make demo`; needs chromium
make pictures                          with the demo before it, and the curves of bf16 and fp32
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURES = {ROOT / "docs" / "images" / "demo-report.png": ROOT / "results/demo/report.html"}
SIZE = "1280,900"  # pixels, of the top of the page


def main() -> None:
    """Write every picture of a page; one line and exit code 2 where something is missing."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        sys.exit(_error("expected chromium on the PATH, found none; install it"))
    for picture, page in PICTURES.items():
        if not page.exists():
            sys.exit(_error(f"{page}: expected a report, found none; `make demo` writes it"))
        _photograph(browser, page, picture)
        print(picture)


def _photograph(browser: str, page: Path, picture: Path) -> None:
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
                f"--window-size={SIZE}",
                f"--screenshot={picture}",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=300,
        )


def _error(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
