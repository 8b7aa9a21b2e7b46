# Helpers of all rules: checked settings, paths, and what goes into a job's parameters.
# A job's `spec` is its own slice of params.yaml as one line of JSON; its `fingerprint` holds
# those of everything upstream, so a stale file below a change is always known to be stale.
import os
import sys
from pathlib import Path
from types import SimpleNamespace

SOURCE = str(Path(workflow.basedir) / "src")
sys.path.insert(0, SOURCE)
# Jobs use this checkout, also from a copy of it, and the environment that Snakemake runs in.
shell.prefix(
    f"export PYTHONPATH='{SOURCE}' PATH='{Path(sys.executable).parent}':\"$PATH\"; "
)

from rwp.errors import UserError
from rwp.pipeline import state as fingerprints
from rwp.pipeline.links import own_files
from rwp.pipeline.load import check_params, read_yaml
from rwp.pipeline.resolve import (
    attack_names,
    evaluation_spec,
    landscape_spec,
    num_gpus,
    run_key,
    train_spec,
)
from rwp.pipeline.suites import (
    BEYOND,
    beyond_runs,
    diagnosis_spec,
    figure_runs,
    reported_runs,
    table1_runs,
    table2_runs,
)
from rwp.training.spec import kept_checkpoint, suite_directory

own_files(Path(".snakemake/metadata"))


def leave(error):
    """One line and exit code 2, as from any of our commands."""
    sys.stderr.write(f"error: {error}\n")
    raise SystemExit(2)


def checked_params(config):
    try:
        params = check_params(config)
        for suite in params.build:
            suite_specs(params, suite)
        return params
    except UserError as error:
        leave(error)


def suite_specs(params, suite):
    """Resolve every run of a suite's tables, so that a gap shows before anything starts."""
    runs = table1_runs(params, suite) + table2_runs(params, suite)
    runs += reported_runs(params, suite)
    return [train_spec(params, key) for key in dict.fromkeys(runs)]


try:  # Snakemake's own message on a broken settings file is a page long
    read_yaml("params.yaml")
except UserError as error:
    leave(error)


RUN = "{base}/runs/{dataset}/{threat}/{network}/{recipe}/seed{seed}"


def base_of(suite):
    return str(suite_directory(suite))


def suite_of(wildcards):
    return next(name for name in PARAMS.suites if base_of(name) == wildcards.base)


def key_of(wildcards, suite=None):
    return run_key(
        PARAMS,
        suite or suite_of(wildcards),
        recipe=wildcards.recipe,
        dataset=wildcards.dataset,
        threat=wildcards.threat,
        network=wildcards.network,
        seed=int(wildcards.seed),
    )


def run_file(key, name):
    return str(key.directory / name)


def run_files(keys):
    """What tables and figures read of trainings."""
    return [
        run_file(key, name) for key in keys for name in ("run.json", "history.jsonl")
    ]


def records(key, attacks=None, checkpoint="best"):
    """The records of one of a run's networks, of all attacks unless some are named."""
    chosen = {"checkpoint": checkpoint}  # a keyword of Snakemake's at a line's start
    spec = evaluation_spec(PARAMS, key, attacks=attacks, **chosen)
    return [str(spec.record(attack.name)) for attack in spec.attacks]


def diagnosis_of(wildcards):
    chosen = {"checkpoint": wildcards.checkpoint}
    return diagnosis_spec(PARAMS, key_of(wildcards), **chosen)


def twin_network(spec):
    """The network that lends adversarial images, if there is one."""
    return [str(spec.twin_checkpoint)] if spec.twin else []


def training_jobs():
    """(suite, run): a rule for all runs of a suite, and one for each run that keeps checkpoints."""
    kept = [
        (suite, landscape_spec(PARAMS, suite, name).key) for suite, name in landscapes()
    ]
    return [(name, None) for name in PARAMS.suites] + list(dict.fromkeys(kept))


def landscapes():
    """(suite, figure) for each figure that looks at checkpoints."""
    return [
        (name, figure)
        for name, suite in PARAMS.suites.items()
        for figure, entry in suite.figures.items()
        if entry.kind == "landscape"
    ]


def training_name(suite, key):
    kept = [run for name, run in training_jobs() if run is not None and name == suite]
    return f"train_{suite}" if key is None else f"train_{suite}_kept{kept.index(key)}"


def training_folder(suite, key):
    return RUN.replace("{base}", base_of(suite)) if key is None else str(key.directory)


def training_outputs(suite, key):
    """Where the test split is measured, the epoch that is best on it is kept, too."""
    folder = training_folder(suite, key)
    names = ["last.pt", "best.pt", "history.jsonl", "run.json"]
    if PARAMS.suites[suite].test_curve:
        names.append("best_on_test.pt")
    files = [f"{folder}/{name}" for name in names]
    if key is not None:
        epochs = train_spec(PARAMS, key).keep_epochs
        files += [str(kept_checkpoint(key, epoch)) for epoch in epochs]
    return files


def training_param(suite, key, what):
    """The function that gives a training's `input`, `spec`, `fingerprint` or `gpus`."""

    def of(wildcards):
        run = key or key_of(wildcards, suite)
        if what == "gpus":
            return num_gpus(PARAMS, run)
        spec = train_spec(PARAMS, run)
        if what == "input":
            check_folder(run.directory)
            return training_inputs(spec)
        if what == "spec":
            return spec.canonical()
        return fingerprints.training_fingerprint(spec, PARAMS)

    return of


def check_folder(folder):
    """Where a file stands in a folder's place, Snakemake's own message is a page long."""
    found = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not os.path.isdir(found):
        leave(f"{found}: expected a folder, got a file; move it away")


def training_message(key):
    if key is not None:
        return f"Training {key.name}, checkpoints kept"
    return "Training {wildcards.recipe} on {wildcards.dataset} ({wildcards.threat}, {wildcards.network}, seed {wildcards.seed})"


def landscape_inputs(suite, name):
    spec = landscape_spec(PARAMS, suite, name)
    checkpoints = [str(spec.checkpoint(epoch)) for epoch in spec.epochs]
    return [*checkpoints, f"data/{spec.key.dataset}/train.pt"]


def figure_inputs(suite, name):
    """The measured landscape, or the histories behind curves, sweeps and removal."""
    if PARAMS.suites[suite].figures[name].kind == "landscape":
        return [str(landscape_spec(PARAMS, suite, name).result(name))]
    return run_files(figure_runs(PARAMS, suite, name))


def beyond_inputs(suite):
    attacks = PARAMS.suites[suite].beyond.attacks
    keys = beyond_runs(PARAMS, suite)
    return run_files(keys) + [path for key in keys for path in records(key, attacks)]


def holdout_passport(source):
    """The data set that a `holdout` source is a share of."""
    dataset = PARAMS.unlabeled[source].dataset
    return [f"data/{dataset}/passport.json"] if dataset else []


def suite_data(suite):
    specs = suite_specs(PARAMS, suite)
    sources = [spec.unlabeled.source for spec in specs if spec.unlabeled]
    return [f"data/{spec.key.dataset}/train.pt" for spec in specs] + [
        f"data/unlabeled/{source}.pt" for source in sources
    ]


def pseudo_spec(wildcards):
    """The labeling step behind a file: that of any recipe of the suite that uses the source."""
    suite = suite_of(wildcards)
    place = {"dataset": wildcards.dataset, "seed": int(wildcards.seed)}
    threat = PARAMS.suites[suite].table2.threat_model
    for recipe in PARAMS.suites[suite].recipes:
        key = run_key(PARAMS, suite, recipe=recipe, threat=threat, **place)
        mix = train_spec(PARAMS, key).unlabeled
        if mix is not None and mix.source == wildcards.source:
            return mix.labeling
    raise WorkflowError(
        f"no recipe of suite {suite} uses the source {wildcards.source}"
    )


def training_inputs(spec):
    """The test split is read only where the suite measures or chooses on it."""
    splits = ["train", "test"] if spec.needs_test else ["train"]
    files = [f"data/{spec.key.dataset}/{split}.pt" for split in splits]
    if spec.unlabeled is not None:
        files.append(f"data/unlabeled/{spec.unlabeled.source}.pt")
        files.append(str(spec.unlabeled.labeling.path))
    return files


def table2_inputs(suite):
    return [
        path
        for key in table2_runs(PARAMS, suite)
        for path in (
            run_file(key, "run.json"),
            *records(key),
            str(diagnosis_spec(PARAMS, key).path),
        )
    ]


def evaluation_jobs():
    """(suite, slow) for each kind of evaluation job: cheap attacks together, AutoAttack alone."""
    return [
        (name, slow)
        for name, suite in PARAMS.suites.items()
        for slow in (False, True)
        if attack_names(suite, slow=slow)
    ]


def evaluation_name(suite, slow):
    return f"{'autoattack' if slow else 'evaluate'}_{suite}"


def evaluation_message(slow):
    attacks = "AutoAttack" if slow else "the cheap attacks"
    return f"Running {attacks} on {{wildcards.recipe}} ({{wildcards.dataset}}, {{wildcards.threat}})"


def evaluation_path(suite, name, root=""):
    return str(Path(root) / RUN.replace("{base}", base_of(suite)) / name)


def evaluation_records(suite, slow):
    names = attack_names(PARAMS.suites[suite], slow=slow)
    return [
        evaluation_path(suite, f"evaluation/{{checkpoint}}/{name}.json")
        for name in names
    ]


def evaluation_param(suite, slow, what):
    """The function that gives a job's `spec` or `fingerprint`."""

    def of(wildcards):
        attacks = attack_names(PARAMS.suites[suite], slow=slow)
        where = {
            "checkpoint": wildcards.checkpoint
        }  # a keyword of Snakemake's at a line's start
        spec = evaluation_spec(
            PARAMS, key_of(wildcards, suite), attacks=attacks, **where
        )
        if what == "spec":
            return spec.canonical()
        return fingerprints.evaluation_fingerprint(spec, PARAMS)

    return of


def reported_files(suite):
    """What the report shows besides the two tables."""
    reported = PARAMS.suites[suite].reported
    names = [f"{name}.{'csv' if name == BEYOND else 'svg'}" for name in reported]
    return [f"{base_of(suite)}/{name}" for name in names]


def suite_targets(suite):
    """All that a suite leaves. Files inside the DAG are listed too: a retraining that failed is
    then not hidden by an older table, and a deleted checkpoint or record is made again.
    """
    base = base_of(suite)
    names = (
        "table1.csv",
        "table2.csv",
        "comparisons.csv",
        "report.html",
        "metrics.json",
    )
    details = [f"{name}_details.csv" for name in ("table1", "table2")]
    files = [f"{base}/{name}" for name in (*names, *details)]
    files += reported_files(suite) + table2_inputs(suite)
    if BEYOND in PARAMS.suites[suite].reported:
        files += [f"{base}/beyond_details.csv", *beyond_inputs(suite)]
    runs = [spec.key for spec in suite_specs(PARAMS, suite)]
    return files + [path for key in runs for path in training_outputs(suite, key)]


def whole_suite(suite):
    return lambda _: suite_targets(suite)


def requested_targets():
    """The targets on the command line; while rules are read, Snakemake does not tell them."""
    if Path(sys.argv[0]).name != "snakemake":
        return []
    from snakemake.cli import get_argument_parser

    return get_argument_parser().parse_known_args(sys.argv[1:])[0].targets


def check_targets():
    """Say in one line that a target cannot be built, and why, before any DAG is thought of."""
    for folder in ("data", "logs", "results"):
        check_folder(Path(folder))
    for target in requested_targets():
        if target in {known.name for known in workflow.rules} or Path(target).exists():
            continue
        makers = [known for known in workflow.rules if known.is_producer(target)]
        if not makers:
            leave(
                f"{target}: expected a file that the workflow makes, got another; try"
                f" results/demo/table2.csv, or `snakemake --list` for the names of steps"
            )
        try:
            check_maker(makers[0], target)
        except UserError as error:
            leave(f"{target}: {error}")


def check_maker(maker, target):
    """Look up the names in a target's path, as its rule will."""
    found = SimpleNamespace(**maker.get_wildcards(target))
    if hasattr(found, "recipe"):
        train_spec(PARAMS, key_of(found, maker.name.partition("_")[2]))
    elif hasattr(found, "figure"):
        figure_runs(PARAMS, suite_of(found), found.figure)
    elif hasattr(found, "base"):
        suite_specs(PARAMS, suite_of(found))
