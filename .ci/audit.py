"""Ask pip-audit about every locked package, and do not take silence for a clean bill.

Where the vulnerability data cannot be reached, pip-audit skips every package and still says that
it found nothing. This says so instead: exit code 0 with a warning, since nothing was found, and 1
for any known vulnerability. Run by `make audit`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCKS = (ROOT / "requirements.lock", *sorted((ROOT / "workflow" / "envs").glob("*.lock")))


def verdict(report: dict[str, Any]) -> tuple[int, list[str]]:
    """Exit code and lines for a report of pip-audit."""
    packages = report["dependencies"]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    lines = [
        f"{package['name']} {package['version']}: {found['id']}"
        f" (fixed in {', '.join(found['fix_versions']) or 'no release yet'})"
        for package in packages
        for found in package.get("vulns", [])
    ]
    code = 1 if lines else 0
    audited = len(packages) - len(skipped)
    if skipped:
        names = ", ".join(skipped[:3]) + (", ..." if len(skipped) > 3 else "")
        lines.append(f"warning: no data here about {len(skipped)} packages ({names}); not audited")
    found = f"{len(lines) - bool(skipped)} known vulnerabilities"
    lines.append(f"{audited} of {len(packages)} packages audited, {found}")
    return code, lines


def audit(lock: Path) -> tuple[int, list[str]]:
    """Run pip-audit on one file of locked packages."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "report.json"
        words = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--disable-pip"]
        words += ["--require-hashes", "--progress-spinner", "off", "--format", "json"]
        words += ["--output", str(output)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder)
        if output.exists():
            return verdict(json.loads(output.read_text(encoding="utf-8")))
    reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:200]
    if "ConnectionError" in done.stderr or "ServiceError" in done.stderr:
        return 0, [f"warning: not audited, the data cannot be reached from here ({reason})"]
    return 2, [f"error: expected a report of pip-audit, got none ({reason})"]


if __name__ == "__main__":
    worst = 0
    for lock in LOCKS:
        name = lock.relative_to(ROOT)
        code, lines = audit(lock)
        worst = max(worst, code)
        sys.stdout.write("".join(f"{name}: {line}\n" for line in lines))
    sys.exit(worst)
