"""What `rwp accept` compares, and which older code counts; nothing is trained here."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rwp.core.settings import Precision
from rwp.data.spec import DatasetSpec
from rwp.pipeline.accept import _way
from rwp.pipeline.settings import Params
from rwp.pipeline.steps import Step, Steps, below
from rwp.spec import Spec
from rwp.training.spec import Draft, RunKey, ThreatSpec, TrainSpec
from tests.pipeline.repository import CopiedProject, new_repository, small_settings

Change = Callable[[Any], Spec]


def in_part(part: str, /, **changes: Any) -> Change:
    """Settings with changes in one of their parts, such as a training's `optimization`."""
    return lambda spec: spec.replace(**{part: getattr(spec, part).replace(**changes)})


def of_attack(**changes: Any) -> Change:
    return lambda spec: spec.replace(attacks=(spec.attacks[0].replace(**changes),))


def precision(word: Precision) -> Change:
    return in_part("optimization", precision=word)


def draft(word: Draft) -> Change:
    return of_attack(draft=word)


def factory(name: str) -> Change:
    return lambda spec: spec.replace(
        objective=spec.objective.replace(loss=f"own.losses:{name}", options={"beta": 1.0})
    )


def threat(norm: Any, radius: str) -> Change:
    return in_part("attack", threat=ThreatSpec(norm=norm, epsilon=radius))


OTHER: dict[str, tuple[Change, Change]] = {
    "precision: tf32": (precision("fp32"), precision("tf32")),
    "precision: bf16": (precision("tf32"), precision("bf16")),
    "norm": (threat("l1", "0.1"), threat("l2", "0.1")),
    "own objectives": (factory("loss1"), factory("loss2")),
    "objective options": (
        factory("loss1"),
        in_part("objective", loss="own.losses:loss1", options={"beta": 0.0}),
    ),
    "label_smoothing": (
        in_part("objective", label_smoothing=0.0),
        in_part("objective", label_smoothing=0.1),
    ),
    "rotation_degrees": (
        in_part("augmentation", rotation_degrees=0.0),
        in_part("augmentation", rotation_degrees=15.0),
    ),
    "crop_padding": (
        in_part("augmentation", crop_padding=0),
        in_part("augmentation", crop_padding=1),
    ),
    "weight steps": (
        in_part("perturbation", num_weight_steps=1),
        in_part("perturbation", num_weight_steps=5),
    ),
    "layers": (in_part("perturbation", layers=(0, 3)), in_part("perturbation", layers=(0, -1))),
}
SAME: dict[str, tuple[Change, Change]] = {
    "gamma": (in_part("perturbation", gamma=0.01), in_part("perturbation", gamma=0.005)),
    "names": (in_part("perturbation", name="rwp"), in_part("perturbation", name="rwp-2")),
    "run": (in_part("key", recipe="at-rwp", seed=0), in_part("key", recipe="at-2", seed=7)),
    "radius": (threat("linf", "0.1"), threat("linf", "8/255")),
    "label_smoothing": (
        in_part("objective", label_smoothing=0.1),
        in_part("objective", label_smoothing=0.2),
    ),
    "data": (in_part("data", test_share=0.2), in_part("data", test_share=0.3)),
    "epochs, which are two in little": (
        lambda spec: in_part("optimization", epochs=1)(spec.replace(keep_epochs=())),
        lambda spec: in_part("optimization", epochs=30)(spec.replace(keep_epochs=(2, 30))),
    ),
}
OTHER_ATTACKS: dict[str, tuple[Change, Change]] = {
    "restarts": (of_attack(num_restarts=1), of_attack(num_restarts=5)),
    "draft": (draft("tf32"), draft("bf16")),
    "no draft": (of_attack(draft=None), draft("bf16")),
    "own attacks": (of_attack(kind="own.attacks:attack1"), of_attack(kind="own.attacks:attack2")),
}
SAME_ATTACKS: dict[str, tuple[Change, Change]] = {
    "restarts": (of_attack(num_restarts=5), of_attack(num_restarts=10)),
    "names": (of_attack(name="pgd-20"), of_attack(name="attack")),
    "images, which are few in little": (
        lambda spec: spec.replace(num_examples=None),
        lambda spec: spec.replace(num_examples=200),
    ),
}


def ways(step: Step, changes: tuple[Change, Change]) -> int:
    return len({_way(replace(step, settings=change(step.settings))) for change in changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def key() -> RunKey:
    coordinates = {"dataset": "digits", "threat": "linf", "network": "small", "recipe": "at-rwp"}
    return RunKey(suite="demo", **coordinates, seed=0)


@pytest.fixture(scope="module")
def training(params: Params, key: RunKey) -> Step:
    return Steps(params).train(key)


@pytest.fixture(scope="module")
def evaluation(params: Params, key: RunKey) -> Step:
    """Of AutoAttack alone."""
    return Steps(params).evaluate(key, "best", "autoattack")


@pytest.mark.parametrize("name", OTHER)
def test_a_switch_of_a_training_has_a_comparison_of_its_own(name: str, training: Step) -> None:
    assert ways(training, OTHER[name]) == 2


@pytest.mark.parametrize("name", SAME)
def test_numbers_and_names_of_a_training_have_one_together(name: str, training: Step) -> None:
    assert ways(training, SAME[name]) == 1


@pytest.mark.parametrize("name", OTHER_ATTACKS)
def test_a_switch_of_an_attack_has_a_comparison_of_its_own(name: str, evaluation: Step) -> None:
    assert ways(evaluation, OTHER_ATTACKS[name]) == 2


@pytest.mark.parametrize("name", SAME_ATTACKS)
def test_numbers_and_names_of_an_attack_have_one_together(name: str, evaluation: Step) -> None:
    assert ways(evaluation, SAME_ATTACKS[name]) == 1


def test_each_source_of_images_has_a_comparison_of_its_own(params: Params) -> None:
    digits = Steps(params).fetch("digits")
    again = replace(digits, settings=digits.settings_as(DatasetSpec).replace(test_share=0.3))
    other = replace(digits, settings=DatasetSpec(source="svhn"))
    assert _way(digits) == _way(again) != _way(other)


def test_seeds_and_sweeps_of_numbers_do_not_multiply_comparisons(params: Params) -> None:
    steps = below([Steps(params).report("mini")])
    trainings = [step for step in steps if isinstance(step.settings, TrainSpec)]
    assert len({_way(step) for step in trainings}) < len(trainings) / 4


# --- Results of several older codes.

RUN = "results/demo/runs/digits/linf/small/{}/run.json"
AT1, AT2 = RUN.format("at/seed1"), RUN.format("at/seed2")
RWP1, RWP2 = RUN.format("at-rwp/seed1"), RUN.format("at-rwp/seed2")

MADE = """
import json, sys
from pathlib import Path
from rwp.pipeline.load import load_params
from rwp.pipeline.steps import Steps
steps = Steps(load_params("params.yaml"))
for name in sys.argv[1:]:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(json.dumps({"fingerprint": steps.find(name).fingerprint}))
"""
# Each step leaves the same, by whichever code; what was compared is told.
ACCEPTED = """
import json, sys
from pathlib import Path
from rwp.errors import UserError
from rwp.pipeline import accept
from rwp.pipeline.load import load_params

def repeated(step, root, place, source):
    if place.name == "old":
        compared.append(str(Path(step.outputs[0]).with_name("run.json")))
    return {"results": 1}

accept._repeat, compared = repeated, []
try:
    entries, told = accept.accept(
        load_params("params.yaml"), sys.argv[1], because="nothing moves", root=Path.cwd()
    )
    found = {"compared": compared, "olds": [entry["old"] for entry in entries], "told": told}
    found["commits"] = [entry["commit"] for entry in entries]
except UserError as error:
    found = {"error": str(error)}
print(json.dumps(found))
"""
STATES = """
import json, sys
from pathlib import Path
from rwp.pipeline.load import load_params
from rwp.pipeline.state import Result
from rwp.pipeline.steps import Steps
steps = Steps(load_params("params.yaml"))
print(json.dumps([Result(steps.find(name), name).state(Path()) for name in sys.argv[1:]]))
"""


class Repository(CopiedProject):
    """Trainings are records with a fingerprint, and each edit changes the code of a training."""

    def python(self, program: str, *words: str) -> str:
        found = self.run("python", "-c", program, *words)
        assert found.returncode == 0, found.stderr
        return found.stdout

    def made(self, *names: str) -> None:
        self.python(MADE, *names)

    def edited(self, number: int) -> str:
        """Commit other code, which moves nothing; returns the commit."""
        path = self.folder / "src/rwp/training/loop.py"
        path.write_text(path.read_text(encoding="utf-8") + f"\n_NOT_USED = {number}\n")
        self.git("commit", "-qam", f"edit {number}")
        return self.commit()

    def commit(self) -> str:
        words = ("git", "rev-parse", "--short", "HEAD")
        return subprocess.check_output(words, cwd=self.folder, text=True).strip()

    def accepted(self, name: str) -> dict[str, Any]:
        return json.loads(self.python(ACCEPTED, name))

    def states(self, *names: str) -> list[str]:
        return json.loads(self.python(STATES, *names))


@pytest.fixture
def repository(tmp_path: Path, committed: dict[str, Any]) -> Repository:
    content = small_settings(committed)
    content["suites"]["demo"]["seeds"] = [1, 2]
    made = new_repository(tmp_path, content)
    return Repository(made.folder, content)


def test_one_of_two_older_codes_counts_and_the_other_is_named(repository: Repository) -> None:
    repository.made(AT1)
    first = repository.commit()
    second = repository.edited(1)
    repository.made(AT2, RWP1)
    repository.edited(2)
    found = repository.accepted("train")
    assert found["commits"] == [second]
    assert sorted(found["compared"]) == sorted([AT2, RWP1])  # by the code that made them
    (line,) = found["told"]
    assert line.startswith(f"stale as before: {AT1}, made at {first};")
    assert repository.states(AT1, AT2, RWP1) == ["stale", "done", "done"]
    assert len((repository.folder / "accepted.jsonl").read_text().splitlines()) == 1

    # The other cannot be accepted beside it: what counts as done now would be stale.
    ledger = (repository.folder / "accepted.jsonl").read_text()
    for name in ("train", AT1):
        error = repository.accepted(name)["error"]
        assert error.startswith(f"{name}: expected results of the one older code")
        assert f"got {AT1} of another (commit {first}); build it again" in error
    assert (repository.folder / "accepted.jsonl").read_text() == ledger


def test_a_file_says_which_of_two_older_codes_counts(repository: Repository) -> None:
    """All that this code made is compared, as all of it counts as done."""
    repository.made(AT1, RWP1)
    first = repository.commit()
    second = repository.edited(1)
    repository.made(AT2, RWP2, RUN.format("at/seed3"))
    repository.edited(2)
    found = repository.accepted(AT1)
    assert found["commits"] == [first]
    assert sorted(found["compared"]) == sorted([AT1, RWP1])
    (line,) = found["told"]
    assert line.startswith(f"stale as before: {AT2} and 1 more, made at {second};")
    assert repository.states(AT1, RWP1, AT2, RWP2) == ["done", "done", "stale", "stale"]


def test_what_todays_code_made_is_named_if_it_becomes_stale(repository: Repository) -> None:
    repository.made(AT1, AT2)
    repository.edited(1)
    repository.made(RWP1)
    found = repository.accepted("train")
    assert found["compared"] == [AT1]
    (line,) = found["told"]
    assert line.startswith(f"stale from now on: {RWP1}, made since the change;")
    assert repository.states(AT1, AT2, RWP1) == ["done", "done", "stale"]


def test_a_code_that_counts_as_an_older_one_is_no_older_code(repository: Repository) -> None:
    repository.made(AT1)
    repository.edited(1)
    repository.made(AT2)  # as in another checkout, before the change was accepted
    assert repository.accepted(AT1)["compared"] == [AT1]
    repository.edited(2)
    error = repository.accepted(AT2)["error"]
    assert f"got {AT2} of another" in error
    assert repository.accepted("train")["compared"] == [AT1]
    assert repository.states(AT1, AT2) == ["done", "stale"]
