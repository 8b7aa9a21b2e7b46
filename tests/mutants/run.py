"""Plant faults that give wrong numbers, one at a time, and see which the tests notice.

`make test-mutants` runs it: each fault of `planted.py` is written into a copy of this checkout, and
the tests named beside it run there until the first one fails. Prints a table, leaves it in
.state/mutants.json, and ends with 1 where fewer than 95 % of the faults are noticed, with 2 where
a fault no longer fits the code.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from planted import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[2]
WANTED_SHARE = 0.95
SECONDS = 900  # a fault may also make a test run for ever
PAUSE = 0.1
# Imported once, before the copies are tested by forks of this process.
LIBRARIES = ("torch", "numpy", "pandas", "scipy.stats", "hypothesis", "pytest", "xdist", "pydantic")
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-m", "not slow and not gpu")


class Misfit(Exception):  # noqa: N818
    """A fault that cannot be planted, or tests that fail without one."""


@dataclass(frozen=True)
class Place:
    """Where a fault goes: the file, and which of its characters it replaces."""

    path: Path
    start: int
    end: int
    line: int


@dataclass(frozen=True)
class Outcome:
    """What became of a fault; `noticed` is the first test that failed, or how it ended."""

    name: str
    place: str
    noticed: str | None
    seconds: float


def pattern(text: str) -> re.Pattern[str]:
    """The text with any white space between its words, so that a formatter breaks no fault."""
    return re.compile(r"\s+".join(re.escape(word) for word in text.split()))


def find(fault: Fault, files: dict[Path, str]) -> Place:
    """The one place of the source that a fault describes.

    Raises:
        Misfit: it describes none, or several.
    """
    wanted = pattern(fault.old)
    found = [
        Place(path, hit.start(), hit.end(), text.count("\n", 0, hit.start()) + 1)
        for path, text in files.items()
        for hit in wanted.finditer(text)
    ]
    if len(found) != 1:
        where = ", ".join(f"{place.path}:{place.line}" for place in found) or "nowhere"
        raise Misfit(
            f"{fault.name}: expected {' '.join(fault.old.split())!r} once in src/rwp, found it"
            f" {len(found)} times ({where}); mend tests/mutants/planted.py"
        )
    return found[0]


def sources(root: Path) -> dict[Path, str]:
    """The text of each module, by its path below the root."""
    paths = sorted((root / "src" / "rwp").rglob("*.py"))
    return {path.relative_to(root): path.read_text(encoding="utf-8") for path in paths}


def places(faults: Sequence[Fault], root: Path) -> list[Place]:
    """Where each fault goes.

    Raises:
        Misfit: with a line for each fault or test file that no longer fits.
    """
    files, found, misfits = sources(root), [], []
    for fault in faults:
        try:
            found.append(find(fault, files))
        except Misfit as error:
            misfits.append(str(error))
        misfits += [
            f"{fault.name}: expected the tests {test}, found none; mend tests/mutants/planted.py"
            for test in fault.tests
            if not (root / "tests" / test.partition("::")[0]).exists()
        ]
    if len(names := {fault.name for fault in faults}) != len(faults):
        misfits.append(f"expected {len(faults)} different names of faults, got {len(names)}")
    if misfits:
        raise Misfit("\n".join(misfits))
    return found


def copy_checkout(folder: Path) -> None:
    """The files that git knows or would take."""
    words = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(words, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


class Planted:
    """A fault in a copy of the checkout, and the tests at work on it."""

    def __init__(self, fault: Fault, place: Place, folder: Path) -> None:
        self.fault, self.place, self.folder = fault, place, folder
        self.path = folder / place.path
        self.sound = self.path.read_text(encoding="utf-8")
        _write(self.path, self.sound[: place.start] + fault.new + self.sound[place.end :])
        self.began = time.monotonic()
        self.child = start_tests([f"tests/{test}" for test in fault.tests], folder)

    def outcome(self) -> Outcome | None:
        """What became of it, or None as long as its tests run; the code is mended afterwards.

        Raises:
            Misfit: the tests could not be run with the fault.
        """
        code = exit_code(self.child, late=time.monotonic() - self.began > SECONDS)
        if code is None:
            return None
        _write(self.path, self.sound)
        log = read_log(self.folder)
        noticed = {0: None, 1: _first_failure(log), -signal.SIGKILL: f"no end after {SECONDS} s"}
        if code not in noticed:
            raise Misfit(
                f"{self.fault.name}: expected tests that run, pytest ended with {code}:\n{log}"
            )
        where = f"{self.place.path}:{self.place.line}"
        seconds = round(time.monotonic() - self.began, 1)
        return Outcome(self.fault.name, where, noticed[code], seconds)


_last_time = time.time()


def _write(path: Path, text: str) -> None:
    """With a date of its own: Python compares whole seconds to know a compiled file as old."""
    global _last_time
    path.write_text(text, encoding="utf-8")
    _last_time += 2
    os.utime(path, (_last_time, _last_time))


def start_tests(tests: Sequence[str], folder: Path) -> int:
    """pytest in a fork of this process, on a copy; the fork's number."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _be_pytest(tests, folder)
    return child


def _be_pytest(tests: Sequence[str], folder: Path) -> None:
    code = 70
    try:
        os.setsid()
        log = os.open(folder / "tests.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(folder)
        here = Path(__file__).resolve().parent
        sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
        os.environ["PYTHONPATH"] = str(folder / "src")
        # Worker processes of the tests start with the main module: pytest's, not this one.
        sys.modules["__main__"] = importlib.import_module("pytest.__main__")
        code = int(importlib.import_module("pytest").main([*OPTIONS, *tests]))
        sys.stdout.flush()
    finally:
        os._exit(code)


def exit_code(child: int, *, late: bool) -> int | None:
    """How a fork ended, or None while it works; one that is late is ended, with all it started."""
    if late:
        os.killpg(child, signal.SIGKILL)
    done, status = os.waitpid(child, 0 if late else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def read_log(folder: Path) -> str:
    """The last lines of what pytest said."""
    text = (folder / "tests.log").read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.splitlines()[-15:])


def _first_failure(log: str) -> str:
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", log, re.M)
    return found[1] if found else "a test"


def check_sound(faults: Sequence[Fault], folder: Path) -> None:
    """Without a fault all the tests pass.

    Raises:
        Misfit: they do not.
    """
    tests = sorted({f"tests/{test}" for fault in faults for test in fault.tests})
    child = start_tests(tests, folder)
    while (code := exit_code(child, late=False)) is None:
        time.sleep(PAUSE)
    if code:
        raise Misfit(
            f"expected tests that pass without a fault, pytest ended with {code}:\n"
            f"{read_log(folder)}"
        )
    print("without a fault all these tests pass", flush=True)


def all_judged(faults: Sequence[Fault], jobs: int, *, check: bool) -> list[Outcome]:
    """Every fault, on `jobs` copies side by side; a line for each as it is done."""
    waiting = list(reversed(list(zip(faults, places(faults, ROOT), strict=True))))
    with tempfile.TemporaryDirectory(prefix="rwp-mutants-") as place:
        free = [Path(place) / str(number) for number in range(jobs)]
        for folder in free:
            copy_checkout(folder)
        if check:
            check_sound(faults, free[0])
        working: list[Planted] = []
        try:
            return list(_one_after_another(waiting, free, working))
        finally:
            for planted in working:
                os.killpg(planted.child, signal.SIGKILL)


def _one_after_another(
    waiting: list[tuple[Fault, Place]], free: list[Path], working: list[Planted]
) -> Iterator[Outcome]:
    misfits = []
    while waiting or working:
        while waiting and free:
            working.append(Planted(*waiting.pop(), free.pop()))
        time.sleep(PAUSE)
        for planted in list(working):
            try:
                found = planted.outcome()
            except Misfit as error:
                misfits.append(str(error))
            else:
                if found is None:
                    continue
                word = "noticed " if found.noticed else "SURVIVED"
                print(f"{word} {found.seconds:6.1f} s  {found.name}", flush=True)
                yield found
            working.remove(planted)
            free.append(planted.folder)
    if misfits:
        raise Misfit("\n".join(misfits))


def main() -> int:
    """Run all faults, or those whose names hold one of the words given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only faults whose names hold one of these")
    parser.add_argument("--jobs", type=int, default=1, help="copies tested side by side")
    parser.add_argument("--unchecked", action="store_true", help="skip the run without a fault")
    given = parser.parse_args()
    chosen = [
        fault for fault in FAULTS if not given.words or any(w in fault.name for w in given.words)
    ]
    if not chosen:
        words = " or ".join(given.words)
        print(
            f"expected a word in the name of a fault, got {words}, which none has; see planted.py",
            file=sys.stderr,
        )
        return 2
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for library in LIBRARIES:
        importlib.import_module(library)
    try:
        outcomes = all_judged(chosen, given.jobs, check=not given.unchecked)
    except Misfit as error:
        print(error, file=sys.stderr)
        return 2
    noticed = sum(outcome.noticed is not None for outcome in outcomes)
    content = {"planted": len(outcomes), "noticed": noticed, "faults": [*map(asdict, outcomes)]}
    (ROOT / ".state").mkdir(exist_ok=True)
    (ROOT / ".state" / "mutants.json").write_text(json.dumps(content, indent=2) + "\n")
    for outcome in outcomes:
        print(f"{outcome.name:64} {outcome.place:48} {outcome.noticed or 'SURVIVED'}")
    print(f"{noticed} of {len(outcomes)} planted faults noticed: {noticed / len(outcomes):.1%}")
    return 0 if noticed >= WANTED_SHARE * len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
