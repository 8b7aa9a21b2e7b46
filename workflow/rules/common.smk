# Helpers of all rules: checked settings, paths, and what goes into a job's parameters.
# A job's `spec` is its own slice of params.yaml as one line of JSON; its `fingerprint` holds
# those of everything upstream, so a stale file below a change is always known to be stale.
import os
import sys
from pathlib import Path

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
