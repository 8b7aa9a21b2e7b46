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
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SOURCE, os.environ.get("PYTHONPATH")]))
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

from rwp.config.evaluations import attack_names, evaluation_spec
from rwp.config.load import check_params, read_yaml
from rwp.config.lookup import run_key
from rwp.config.specs import suite_directory
from rwp.config.tables import table1_runs, table2_runs
from rwp.config.trainings import pseudo_label_spec, train_spec
from rwp.errors import UserError
from rwp.provenance import chain as fingerprints  # Snakemake itself needs the name `chain`


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
    return [train_spec(params, key) for key in dict.fromkeys(runs)]


try:  # Snakemake's own message on a broken settings file is a page long
    read_yaml("params.yaml")
except UserError as error:
    leave(error)


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


def records(key):
    """All records of a run's best network."""
    spec = evaluation_spec(PARAMS, key)
    return [str(spec.record(attack.name)) for attack in spec.attacks]


def suite_targets(suite):
    base = base_of(suite)
    runs = dict.fromkeys(table1_runs(PARAMS, suite) + table2_runs(PARAMS, suite))
    tables = [f"{base}/{name}" for name in ("table1.csv", "table2.csv", "report.html")]
    # Networks are listed too: a retraining that failed is then not hidden by an older table.
    return tables + [run_file(key, "last.pt") for key in runs]


def requested_targets():
    """The targets on the command line; while rules are read, Snakemake does not tell them."""
    if Path(sys.argv[0]).name != "snakemake":
        return []
    from snakemake.cli import get_argument_parser

    return get_argument_parser().parse_known_args(sys.argv[1:])[0].targets


def check_targets():
    """Say in one line that a target cannot be built, and why, before any DAG is thought of."""
    for target in requested_targets():
        if target in {rule.name for rule in workflow.rules} or Path(target).exists():
            continue
        makers = [rule for rule in workflow.rules if rule.is_producer(target)]
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
        suite = maker.name.partition("_")[2] if maker.name != "train" else None
        train_spec(PARAMS, key_of(found, suite))
    elif hasattr(found, "base"):
        suite_specs(PARAMS, suite_of(found))
