"""Options that several commands share."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from rwp.errors import UserError
from rwp.files import SETTINGS_FILE, object_in, read_object

if TYPE_CHECKING:
    from rwp.evaluation.spec import EvaluationSpec
    from rwp.pipeline.settings import Params
    from rwp.pipeline.steps import Step
    from rwp.spec import Spec
    from rwp.training.spec import RunKey

PlannedSpec = TypeVar("PlannedSpec", bound="Spec")
DEFAULT_PARAMS = Path("params.yaml")


def names_of(what: str) -> str:
    """For a help text: the names that the settings have of "suites", "recipes", "attacks", ...

    Those of studies are among them. Read only where help is asked for, so that no command waits
    for it; empty where there is no readable params.yaml in the working folder.
    """
    if not {"--help", "-h"} & set(sys.argv):
        return ""
    try:
        content = _written()
        suites = content["suites"].values()
        tables = {
            "attacks": [suite.get("evaluation", {}).get("attacks", {}) for suite in suites],
            "recipes": [suite.get("recipes", {}) for suite in suites],
        }.get(what, [content.get(what, {})])
        names = list(dict.fromkeys(str(name) for table in tables for name in table))
    except (UserError, AttributeError, KeyError, TypeError):
        return ""
    return f" One of: {', '.join(names)}." if names else ""


def _written() -> Any:
    """params.yaml with all studies; alone where one of them cannot be read."""
    from rwp.strict_yaml import read_yaml
    from rwp.studies import read_settings

    try:
        return read_settings(DEFAULT_PARAMS)
    except UserError:  # told by every command but this one
        return read_yaml(DEFAULT_PARAMS)


ParamsFile = Annotated[
    Path,
    typer.Option(
        "--params",
        envvar=SETTINGS_FILE,
        help="The settings file; in a job of the workflow, those it was planned with.",
    ),
]
SuiteName = Annotated[str, typer.Option(help="Suite of params.yaml." + names_of("suites"))]
SuiteNamed = Annotated[
    str | None,
    typer.Option(help="Suite of params.yaml; default: demo, for what it has." + names_of("suites")),
]
Gathered = Annotated[
    Path | None,
    typer.Option("--from", help="Gathered results, such as docs/results/mini-jpeg."),
]
# The workflow's way to call a command: the step's settings as one line of JSON.
Resolved = Annotated[str | None, typer.Option(hidden=True)]


def _typed(context: typer.Context, names: Iterable[str]) -> Iterator[str]:
    """Those of the parameters that stand on the command line."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            yield name


def _option(name: str) -> str:
    return "--params" if name == "params_file" else f"--{name}"


def refuse_with_from(context: typer.Context, *names: str) -> None:
    """What the gathered folder of --from decides; an ignored option would mislead."""
    for name in _typed(context, names):
        raise UserError(
            f"{_option(name)}: expected none with --from, whose folder has its own, got "
            f"{context.params[name]}; leave it out"
        )


def is_of_a_run(checkpoint: Path | None) -> bool:
    """Whether it is to be looked for among our runs: foreign weights are told how to go on."""
    if checkpoint is None or not checkpoint.exists():
        return True
    return (checkpoint.parent / "run.json").exists()


def kept_by(params: Params, checkpoint: Path | None) -> RunKey | None:
    """The run that has kept a network in its folder `checkpoints`, if it lies there.

    Raises:
        UserError: the run is of names that the settings no longer have.
    """
    if checkpoint is None or checkpoint.absolute().parent.name != "checkpoints":
        return None
    record = checkpoint.absolute().parents[1] / "run.json"
    return _key_of(params, record) if checkpoint.exists() and record.exists() else None


def _key_of(params: Params, record: Path) -> RunKey:
    from rwp.pipeline.lookup import refuse_unknown
    from rwp.training.spec import RunKey

    key = RunKey.parse(read_object(record).get("key"), where=str(record))
    refuse_unknown(params, key, where=str(record))
    _warn_of_other_code(params, key, record)
    return key


def _warn_of_other_code(params: Params, key: RunKey, record: Path) -> None:
    """A network of one's own runs with its code of today, whatever it was trained with."""
    from rwp.pipeline.resolve import network_spec

    trained = object_in(object_in(read_object(record), "spec"), "architecture")
    now = network_spec(params, key.network)
    source = getattr(now, "source", "")
    if trained.get("family") == now.family and trained.get("source", "") != source:
        print(
            f"warning: {record}: expected a network of today's {now.family}, got one that was "
            "trained with other code: its weights run with today's; train it again",
            file=sys.stderr,
        )


def suite_of_external(
    params: Params, suite: str | None, checkpoint: Path | None, dataset: str | None
) -> str:
    """The suite whose attacks a network from elsewhere gets: the one named, or demo.

    Raises:
        UserError: none was named, and it is a run's own network or of images that demo has not.
    """
    if suite is None and checkpoint is not None and checkpoint.exists():
        for record in (folder / "run.json" for folder in checkpoint.absolute().parents[:2]):
            if record.exists():
                raise UserError(
                    f"--suite: expected a suite beside the network of a run, as radii and attacks "
                    f"are its own, got none; name {_key_of(params, record).suite}, or leave --arch "
                    "out"
                )
    return named_or_demo(params, suite, dataset=dataset)


def refuse_for_own_runs(context: typer.Context, *names: str) -> None:
    """A run's suite in params.yaml says all of this; ignored options would mislead."""
    for name in _typed(context, names):
        raise UserError(
            f"{_option(name)}: expected none for a run of this project, which its suite in "
            f"params.yaml decides on, got {context.params[name]}; leave it out, as it is for "
            "models that this project did not train"
        )


def refuse_to_replace(output: Path | None, ending: str, record_format: str) -> None:
    """A result with a record beside it takes the place of such a result alone.

    Raises:
        UserError: it is named as its record, or another file is there, or at its record's place.
    """
    if output is None:
        return
    if output.suffix.lower() == ".json":
        raise UserError(
            f"--output: expected another ending than .json, which the record beside it has, got "
            f"{output}; name another file"
        )
    refuse_other_kind(output, ending)
    record = output.with_suffix(".json")
    there = next((path for path in (output, record) if path.exists()), None)
    if there is not None and not (record.exists() and _has_format(record, record_format)):
        raise UserError(
            f"--output: expected a new file, or one to replace whose record {record.name} is of "
            f"{record_format}, got {there} without one; remove it or name another file"
        )


def _has_format(path: Path, expected: str) -> bool:
    try:
        return read_object(path).get("format") == expected
    except UserError:
        return False


def refuse_other_kind(output: Path | None, ending: str) -> None:
    """A file of another kind that is there, such as settings or a record, would be lost.

    Raises:
        UserError: it is there and ends otherwise.
    """
    if output is not None and output.exists() and output.suffix.lower() != ending:
        raise UserError(
            f"--output: expected a new file, or one to replace that ends in {ending}, got {output},"
            " which is there; name another"
        )


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
        hidden=True,  # what the step stands on; computed from params.yaml if not given
        callback=_hash_like,
    ),
]


def planned(
    kind: type[PlannedSpec], step: str, resolved: str | None, fingerprint: str | None
) -> tuple[PlannedSpec, str] | None:
    """The settings and fingerprint that a job of the workflow got; None: a person's words say them.

    `step` is the name of its code in `rwp.pipeline.steps.CODE`.

    Raises:
        UserError: one came without the other, these are no settings of this kind, or the code is
            no longer that which the fingerprint stands on.
    """
    if resolved is None and fingerprint is None:
        return None
    if resolved is None or fingerprint is None:
        missing = "--resolved" if resolved is None else "--fingerprint"
        raise UserError(
            f"{missing}: expected it beside the other, as the workflow gives both, got one alone;"
            f" name the run in words"
        )
    from rwp.pipeline.code import refuse_other_code
    from rwp.pipeline.own_code import refuse_other_own_code

    spec = kind.parse(resolved, where="--resolved")
    refuse_other_code(step)
    refuse_other_own_code(spec)
    return spec, fingerprint


def named_or_demo(params: Params, suite: str | None, **named: str | None) -> str:
    """The suite that was named; else demo, where it shows what else was named.

    Args:
        params: the settings.
        suite: the name, if there was one.
        named: what else was, by the option's name: a `dataset` or a `network`.

    Raises:
        UserError: demo has none of it; its radius and schedule would be of other images.
    """
    if suite is not None:
        return suite
    from rwp.pipeline.suites import parts_of, runs_of

    for option, name in named.items():
        if name not in getattr(params, f"{option}s"):  # none, or refused by whoever looks it up
            continue

        def shows(suite: str, option: str = option, name: str | None = name) -> bool:
            parts = parts_of(params.suites[suite])
            runs = (key for part in parts for key in runs_of(params, suite, part))
            return any(getattr(key, option) == name for key in runs)

        if "demo" not in params.suites or not shows("demo"):
            has = []
            for other in params.suites:
                with suppress(UserError):  # of a suite that nobody asked for
                    has += [other] if shows(other) else []
            others = f"one of {', '.join(dict.fromkeys(has))}" if has else "one that has it"
            raise UserError(
                f"--suite: expected a suite beside --{option} {name}, as radii, attacks and "
                f"schedules are its own, got none; name {others}"
            )
    return "demo"


def find_run(
    params: Params,
    suite: str | None,
    recipe: str,
    *,
    dataset: str | None,
    threat: str | None,
    network: str | None,
    seed: int,
) -> RunKey:
    """The run that names on a command line mean; what is left out is that of table 2."""
    from rwp.pipeline.lookup import choose, run_key

    suite = named_or_demo(params, suite, dataset=dataset, network=network)
    table2 = choose(params.suites, suite, "suite", "--suite").table2
    key = run_key(
        params,
        suite,
        recipe=recipe,
        dataset=dataset or table2.dataset,
        threat=threat or table2.threat_model,
        network=network,
        seed=seed,
    )
    if threat not in (None, key.threat):
        raise UserError(
            f"--threat: expected none with {recipe}, which trains without an attack, got {threat}; "
            "leave it out"
        )
    return key


def spec_of(params: Params, checkpoint: Path | None, attacks: tuple[str, ...]) -> EvaluationSpec:
    """The evaluation of a network that the pipeline trained, from the run.json beside it."""
    from rwp.evaluation.spec import CHECKPOINTS
    from rwp.pipeline.resolve_evaluation import evaluation_spec

    if checkpoint is None:
        raise UserError("--checkpoint: expected a network, got none; e.g. results/.../best.pt")
    if not checkpoint.exists():
        raise UserError(f"{checkpoint}: expected a checkpoint, found no file; train it first")
    if checkpoint.name not in (f"{name}.pt" for name in CHECKPOINTS):
        raise UserError(
            f"{checkpoint}: expected best.pt, best_on_test.pt or last.pt in a run's folder, got"
            f" {checkpoint.name}; for weights from elsewhere add --arch NAME"
        )
    record = checkpoint.parent / "run.json"
    key = _key_of(params, record)
    if (Path.cwd() / key.directory).resolve() != checkpoint.parent.resolve():
        raise UserError(
            f"{checkpoint}: expected the run below {key.directory}, got another folder;"
            f" run from the project that trained it"
        )
    return evaluation_spec(params, key, checkpoint=checkpoint.stem, attacks=attacks or None)


def once_each(named: list[str] | None) -> tuple[str, ...]:
    """What an option that may be repeated names, in this order."""
    return tuple(dict.fromkeys(named or ()))


def refuse_stale(step: Step, *, besides: Collection[str] = ()) -> None:
    """By hand nothing is made of older files under today's fingerprint, as by Snakemake.

    `besides` are inputs that something else is read in place of.

    Raises:
        UserError: what the step reads (images, networks, labels, records) is of other settings or
            code, or images whose fetch ended early.
    """
    from rwp.pipeline.state import changed_sources, incomplete_fetches, stale_inputs

    root, above = Path.cwd(), dict.fromkeys(step.inputs.values())
    fetched = {other.outputs[-1]: other.name for other in above}
    for passport in incomplete_fetches(above, root):
        raise UserError(
            f"{passport}: expected it beside the images, which a fetch writes before it, found "
            "none: the last fetch ended early, and the images may be of two; run `rwp data fetch "
            f"{fetched[passport]}`"
        )
    builds = {path: f"rwp data fetch {fetched[path]}" for path in changed_sources(above, root)}
    builds |= {
        path: f"snakemake --cores all {path}" for path in stale_inputs(step, root, besides=besides)
    }
    if builds:
        path, build = next(iter(builds.items()))
        raise UserError(
            f"{path}: expected it as today's settings, code and images make it, got an older one; "
            f"`rwp verify --why {path}` says what changed: put that back, or make it anew by "
            f"{build} (or, if only code changed and no number, `rwp accept`)"
        )
