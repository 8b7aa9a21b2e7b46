"""Before a plan runs, each factory of the user's own in it is tried once, by `rwp check`.

In a process of its own, as it runs somebody else's code; what was tried and found in order is
noted, by its source and options, and not tried again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rwp.data.passport import PASSPORT, read_passport
from rwp.data.spec import DatasetSpec, num_classes_known, side_known
from rwp.errors import UserError
from rwp.evaluation.spec import EvaluationSpec
from rwp.factories import is_own
from rwp.files import write_json
from rwp.pipeline.steps import Step
from rwp.spec import merkle
from rwp.training.spec import OwnNetworkSpec, ThreatSpec, TrainSpec

NOTED = Path(".state/checked")
_ERROR = "error: "  # what the one line of a command that fails starts with
_SOME_CLASSES = 3  # where nothing tells how many there are


def try_factories(steps: Iterable[Step]) -> None:
    """Try what is new.

    Raises:
        UserError: one does not keep to its protocol; one line that names it.
    """
    trials = {json.dumps(trial, sort_keys=True): trial for trial in _trials(steps)}
    notes = {text: NOTED / f"{merkle(text)}.json" for text in trials}
    new = [trial for text, trial in trials.items() if not notes[text].exists()]
    if not new:
        return
    words = [sys.executable, "-m", "rwp", "check", "--resolved", json.dumps(new)]
    # Without an input: a breakpoint left in would wait for ever, and nobody would see its prompt.
    done = subprocess.run(
        words, text=True, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        raise UserError(_why(done, new))
    for line in done.stderr.splitlines():
        if ": warning: " in line:  # it is not tried again, so nobody else would tell
            sys.stderr.write(f"{line}\n")
    for text, trial in trials.items():
        with suppress(UserError, OSError):  # where nothing can be noted it is tried again
            write_json(notes[text], trial)


def _why(done: subprocess.CompletedProcess[str], trials: list[dict[str, Any]]) -> str:
    """What the trial said was wrong, whatever else was written; or how it ended."""
    told = [line for line in done.stderr.splitlines() if line.startswith(_ERROR)]
    if told:
        return told[-1].removeprefix(_ERROR)
    names = " or ".join(dict.fromkeys(trial["text"] for trial in trials))
    code = done.returncode
    ended = f"signal {-code}" if code < 0 else f"exit code {code}"
    last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
    return (
        f"{names}: expected a trial on a tiny batch to end in order, got {ended} ({last}); "
        f"try each with rwp check"
    )


def _trials(steps: Iterable[Step]) -> Iterator[dict[str, Any]]:
    for step in steps:
        settings = step.settings
        labeled = (s for s in step.inputs.values() if isinstance(s.settings, DatasetSpec))
        marks = {other.name: other.fingerprint for other in labeled}
        if isinstance(settings, TrainSpec):
            shape = _shape(settings.data, settings.key.dataset, marks)
            network, objective = settings.architecture, settings.objective
            if isinstance(network, OwnNetworkSpec) and shape and not _waits(network, settings):
                yield _trial("network", network.family, network.options, network.source, shape)
            if is_own(objective.loss):
                named = (objective.loss, objective.options, objective.source)
                trial = _trial("objective", *named, shape) | _ball(settings.threat)
                own = objective.criterion != "objective"  # which a trial takes by itself
                yield trial | ({"criterion": objective.criterion} if own else {})
            perturbation = settings.perturbation
            if perturbation is not None and perturbation.source:
                role = "perturbation" if perturbation.factory else "mask"
                text = perturbation.factory or perturbation.mask
                yield _trial(role, text, perturbation.own_options, perturbation.source, shape)
        elif isinstance(settings, EvaluationSpec):
            shape = _shape(settings.data, settings.key.dataset, marks)
            for attack in settings.attacks:
                if is_own(attack.kind):
                    named = (attack.kind, attack.options, attack.source)
                    yield _trial("attack", *named, shape) | _ball(attack.threat)


def _waits(network: OwnNetworkSpec, spec: TrainSpec) -> bool:
    """Whether an option says how many classes there are, which fetched images alone tell here."""
    classes = num_classes_known(spec.data, Path("data") / spec.key.dataset)
    return classes is None and "num_classes" in network.options


def _ball(threat: ThreatSpec | None) -> dict[str, Any]:
    """The threat model that it will work under."""
    return {"norm": threat.norm, "epsilon": threat.epsilon} if threat is not None else {}


def _trial(
    role: str, text: str, options: dict[str, Any], source: str, shape: dict[str, Any] | None
) -> dict[str, Any]:
    shape = shape or {"num_classes": _SOME_CLASSES}
    return {"role": role, "text": text, "options": options, "source": source, "shape": shape}


def _shape(
    data: DatasetSpec, name: str, marks: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    """Classes and image shape; none where only the images that are yet to be fetched tell it.

    Those that lie there tell it unless they will be fetched anew: `marks` are today's fingerprints.
    A training tries its network again on the images, so a network may wait for them.
    """
    folder = Path("data") / name
    known: dict[str, Any] = {}
    found = read_passport(folder / PASSPORT) if (folder / PASSPORT).exists() else None
    if found is not None and found.fingerprint in ("", (marks or {}).get(name, found.fingerprint)):
        channels, height, width = found.shape
        known = {"in_channels": channels, "image_size": [height, width]}
    elif data.path is not None and (data.image_size is None or data.mean is None):
        return None
    elif side := side_known(data):
        gray = data.source == "digits"
        channels = len(data.mean) if data.mean is not None else 1 if gray else 3
        known = {"in_channels": channels, "image_size": [side] * 2}
    return known | {"num_classes": num_classes_known(data, folder) or _SOME_CLASSES}
