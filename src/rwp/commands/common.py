"""Options that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rwp.errors import UserError

if TYPE_CHECKING:
    from rwp.evaluation.spec import EvaluationSpec
    from rwp.pipeline.settings import Params
    from rwp.training.spec import RunKey

ParamsFile = Annotated[Path, typer.Option("--params", help="The settings file.")]
SuiteName = Annotated[str, typer.Option(help="Suite of params.yaml: demo, quick, paper or yours.")]
Resolved = Annotated[
    str | None,
    typer.Option(
        help="The step's settings as one line of JSON, instead of names; the workflow's way."
    ),
]


def _hash_like(value: str | None) -> str | None:
    """A fingerprint names a folder, so it is letters and digits and nothing else."""
    if value is not None and not re.fullmatch(r"[0-9a-z]{1,64}", value):
        raise UserError(
            f"--fingerprint: expected up to 64 letters and digits, got {value[:80]!r}; leave it"
            " out to have it computed"
        )
    return value


Fingerprint = Annotated[
    str | None,
    typer.Option(
        help="What the step stands on; computed from params.yaml if not given.",
        callback=_hash_like,
    ),
]
DEFAULT_PARAMS = Path("params.yaml")


def find_run(
    params: Params,
    suite: str,
    recipe: str,
    *,
    dataset: str | None,
    threat: str | None,
    network: str | None,
    seed: int,
) -> RunKey:
    """The run that names on a command line mean; what is left out is that of table 2."""
    from rwp.pipeline.resolve import run_key
    from rwp.pipeline.settings import choose

    table2 = choose(params.suites, suite, "suite", "--suite").table2
    return run_key(
        params,
        suite,
        recipe=recipe,
        dataset=dataset or table2.dataset,
        threat=threat or table2.threat_model,
        network=network,
        seed=seed,
    )


def spec_of(params: Params, checkpoint: Path | None, attacks: tuple[str, ...]) -> EvaluationSpec:
    """The evaluation of a network that the pipeline trained, from the run.json beside it."""
    from rwp.files import read_object
    from rwp.pipeline.resolve import evaluation_spec
    from rwp.training.spec import RunKey

    if checkpoint is None:
        raise UserError("--checkpoint: expected a network, got none; e.g. results/.../best.pt")
    if not checkpoint.exists():
        raise UserError(f"{checkpoint}: expected a checkpoint, found no file; train it first")
    if checkpoint.name not in ("best.pt", "best_on_test.pt", "last.pt"):
        raise UserError(
            f"{checkpoint}: expected best.pt, best_on_test.pt or last.pt in a run's folder, got"
            f" {checkpoint.name}; for weights from elsewhere add --arch NAME"
        )
    record = checkpoint.parent / "run.json"
    key = RunKey.parse(read_object(record).get("key"), where=str(record))
    if (Path.cwd() / key.directory).resolve() != checkpoint.parent.resolve():
        raise UserError(
            f"{checkpoint}: expected the run below {key.directory}, got another folder;"
            f" run from the project that trained it"
        )
    return evaluation_spec(params, key, checkpoint=checkpoint.stem, attacks=attacks or None)
