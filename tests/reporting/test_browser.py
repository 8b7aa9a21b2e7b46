"""The report in a browser, at the width of a desk and of a phone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rwp.reporting.report import render_report

from .conftest import Project
from .test_report import POLICY

# Added to the page under test: what the browser itself found, written where --dump-dom shows it.
PROBE = f"""<meta http-equiv="Content-Security-Policy"
 content="{POLICY}; script-src 'unsafe-inline'">
<script>
const errors = [], requests = [];
addEventListener("error", event => errors.push(String(event.message || event.target.src)), true);
addEventListener("securitypolicyviolation", event => requests.push(event.blockedURI));
addEventListener("load", () => {{
  const found = document.createElement("pre");
  found.id = "probe";
  found.textContent = JSON.stringify({{
    errors,
    requests,
    images: document.images.length,
    broken: [...document.images].filter(image => !image.naturalWidth).length,
    overflow: document.documentElement.scrollWidth - innerWidth,
    cut: [...document.querySelectorAll(".cards td")]
      .filter(cell => cell.getBoundingClientRect().right > innerWidth).length,
    scrolling: [...document.querySelectorAll(".scroll")]
      .filter(region => region.scrollWidth > region.clientWidth)
      .map(region => region.getAttribute("aria-label")),
  }});
  document.body.append(found);
}});
</script>"""


@pytest.fixture(scope="module")
def page(everything: Project) -> str:
    """A report with every section and every kind of figure."""
    return render_report(everything.results())


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_shows_it_without_errors(tmp_path: Path, page: str, width: int) -> None:
    found = _browse(tmp_path, page, width)
    assert found["errors"] == []
    # Table 2, the learning curves of Table 1 (L-inf, L2), 4 figures
    assert (found["images"], found["broken"]) == (7, 0)
    assert found["requests"] == []
    assert found["overflow"] <= 0  # wide tables scroll within themselves, the page does not
    assert found["cut"] == 0  # the tables of results and the pairs are read without scrolling
    assert width < 1280 or not found["scrolling"]  # at a desk every table is


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_the_probe_notices_what_it_looks_for(tmp_path: Path) -> None:
    page = "<!DOCTYPE html><head></head><p style='width: 2000px'>wide</p>"
    page += "<div class=cards><table><tr><td><div style='width: 900px'>wide</div></table></div>"
    page += "<script>missing.name</script><img src=http://localhost/a.png>"
    found = _browse(tmp_path, page, 500)
    assert len(found["errors"]) == 2
    assert found["broken"] == 1
    assert len(found["requests"]) == 1
    assert found["overflow"] > 0
    assert found["cut"] == 1


def _browse(folder: Path, page: str, width: int) -> dict[str, Any]:
    path = folder / "page.html"
    page = page.replace(f'content="{POLICY}"', "").replace("<head>", f"<head>{PROBE}", 1)
    path.write_text(page, encoding="utf-8")
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    switches += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    switches += [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},2000"]
    shown = subprocess.run(
        ["chromium", *switches, "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        check=True,
    )
    probe = re.search(r'<pre id="probe">(.*?)</pre>', shown.stdout, re.DOTALL)
    assert probe is not None
    found: dict[str, Any] = json.loads(html.unescape(probe[1]))
    return found
