# What all rules share. What a step is (its inputs, outputs, settings, fingerprint) is said once, in
# rwp.pipeline.steps; a rule asks for the step behind one of its files.
import functools
import itertools
import os
import re
import sys
from pathlib import Path

from snakemake.utils import update_config

SOURCE = str(Path(workflow.basedir) / "src")
sys.path.insert(0, SOURCE)

from rwp.errors import UserError
from rwp.files import SETTINGS_FILE
from rwp.pipeline.dvc import left_in_settings, copy_linked_files
from rwp.strict_yaml import parse_yaml, read_yaml, with_exponents
from rwp.studies import in_its_file, read_settings, study_files

# Jobs use this checkout, also from a copy of it, and the environment that Snakemake runs in. Their
# lines name no folder, so that none has to be quoted. Own modules may lie on the user's PYTHONPATH.
here = [str(Path(sys.executable).parent), *os.get_exec_path()]
modules = [SOURCE, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
os.environ.update(
    PYTHONPATH=os.pathsep.join(dict.fromkeys(modules)), PATH=os.pathsep.join(here)
)


def tell_of_experiment():
    """Of the settings that an experiment of DVC has put into params.yaml."""
    if note := left_in_settings(Path.cwd()):
        sys.stderr.write(f"{note}\n")


def leave(error):
    """One line and exit code 2, as from any of our commands."""
    sys.stderr.write(f"error: {in_its_file(str(error), 'params.yaml')}\n")
    tell_of_experiment()
    raise SystemExit(2)


try:  # these read accepted.jsonl
    from rwp.evaluation.spec import CHECKPOINTS
    from rwp.pipeline.checks import check_images
    from rwp.pipeline.code import CODE, plan_with
    from rwp.pipeline.engine import (
        be_at_work,
        finished_jobs,
        notes_due,
        refuse_if_at_work,
    )
    from rwp.pipeline.load import check_params, keep_settings, kept_settings
    from rwp.pipeline.own_trials import try_factories
    from rwp.pipeline.resolve import kept_starts
    from rwp.pipeline.resolve_evaluation import attack_jobs
    from rwp.pipeline.steps import PLANNED, Steps, below, training_outputs
    from rwp.training.spec import suite_directory
except UserError as error:
    leave(error)

# Snakemake fills in braces; lists of paths are split.
for sign in ("{", "}", os.pathsep, "\n"):
    if sign in SOURCE or sign in os.getcwd():
        leave(
            f"{os.getcwd()}: expected a folder without {sign!r} in its name; rename it"
        )


def unreadable(error):
    """An image, say, that may not be read."""
    return (
        f"{error.filename}: expected a file that can be read, got {error.strerror}; change its"
        " permissions, or remove it"
    )


def checked_steps(content):
    """The steps of some settings; what a suite lacks shows before anything starts."""
    try:
        steps = Steps(check_params(content))
        check_images(steps.params, Path(), "params.yaml")
        for suite in steps.params.build:
            steps.suite(suite)
        return steps
    except UserError as error:
        leave(error)
    except OSError as error:
        leave(unreadable(error))


# A job that waited in a cluster's queue has the settings that it was planned with, whatever
# params.yaml says by now.
try:  # Snakemake's own message on a broken settings file is a page long
    SETTINGS = None if workflow.is_main_process else kept_settings()
    WRITTEN = read_settings("params.yaml") if SETTINGS is None else SETTINGS
except UserError as error:
    leave(error)


def with_overrides(settings):
    """Settings with those of Snakemake's command line, read as strictly as params.yaml.

    Its own reader takes numbers within a table for texts; that of a profile's `config` still does.
    """
    update_config(settings, with_exponents(workflow.config_settings.overwrite_config))
    try:
        if asked().configfile:  # whose paths are those of the caller's folder
            for path in workflow.config_settings.configfiles:
                update_config(settings, read_yaml(path))
        for word in asked().config or ():
            key, _, value = word.partition("=")
            found = parse_yaml(value, where=f"--config {key}") if value else None
            update_config(settings, {key: found})
    except UserError as error:
        leave(error)
    return settings


class Unrecorded:
    """Settings that travel with a job, though Snakemake neither keeps nor compares them."""

    def __init__(self, text):
        self.text = text

    def __str__(self):
        return self.text


def find(path):
    """The step behind a file, or one line that says why there is none."""
    try:
        step = STEPS.find(path)
    except UserError as error:
        leave(error)
    for folder in {os.path.dirname(output) for output in step.outputs}:
        check_folder(folder)
    return step


@functools.cache
def check_folder(folder):
    """Where a file stands in a folder's place, Snakemake's own message is a page long."""
    places = (Path(folder), *Path(folder).parents)
    found = next(place for place in places if os.path.lexists(place))
    if not os.path.isdir(found):
        leave(f"{found}: expected a folder, got a file; move it away")


def check_place():
    """Snakemake's own message, where it cannot note what is done, is a page long."""
    place = Path(".snakemake") if Path(".snakemake").exists() else Path()
    if not os.access(place, os.W_OK):
        leave(
            f"{place.absolute()}: expected a folder that can be written to, got one that cannot;"
            " build in a copy of your own (`rwp table` and `rwp report` show what is built here)"
        )


def ask(pattern, what):
    """What a rule asks of the step behind one of its files, such as its `inputs`."""

    def of(wildcards):
        step = find(pattern.format(**dict(wildcards.items())))
        try:
            return told(step)
        except UserError as error:  # Snakemake would show a traceback
            leave(error)
        except OSError as error:
            leave(unreadable(error))

    def told(step):
        if what == "inputs":
            return list(step.inputs)
        if what == "settings":
            return Unrecorded(step.settings.canonical())
        if (
            what == "step_fingerprint"
        ):  # an evaluation's attacks have fingerprints of their own
            return Unrecorded(step.fingerprint)
        return getattr(step, what)

    return of


def per_gpu(pattern, amount):
    """So much for each GPU that a training is shared by: each has a process of its own."""
    gpus = ask(pattern, "gpus")
    return lambda wildcards: amount * gpus(wildcards)


RUN = "{base}/runs/{dataset}/{threat}/{network}/{recipe}/seed{seed}"


def base_of(suite):
    return str(suite_directory(suite))


def run_of(suite):
    return RUN.replace("{base}", base_of(suite))


def either(names):
    """A pattern of names, for a wildcard."""
    return "|".join(re.escape(name) for name in sorted(set(names))) or "none"


RULE_NAMES = set()


def rule_name(name):
    """A name of its own: landscape `b_x` of suite `a` is called as landscape `x` of `a_b`."""
    same = (f"{name}_{number}" for number in itertools.count(2))
    found = (
        name if name not in RULE_NAMES else next(n for n in same if n not in RULE_NAMES)
    )
    RULE_NAMES.add(found)
    return found


def suite_steps(suite):
    return below(STEPS.suite(suite))


def suite_targets(suite):
    """All that a suite leaves. Files inside the DAG are listed too: a retraining that failed is
    then not hidden by an older table, and a deleted checkpoint or record is made again.
    """
    try:
        for owner, figure in landscapes():
            if owner == suite:
                STEPS.landscape(suite, figure)  # whose networks its trainings keep
        return [path for step in suite_steps(suite) for path in step.outputs]
    except UserError as error:  # Snakemake would show a traceback
        leave(error)
    except OSError as error:
        leave(unreadable(error))


def evaluation_rules():
    """(name, suite, attacks, slow) for each kind of evaluation job of a suite."""
    for suite, entry in PARAMS.suites.items():
        for attacks in attack_jobs(entry):
            slow = entry.evaluation.attacks[attacks[0]].kind == "autoattack"
            own = f"autoattack_{suite}_{attacks[0]}" if slow else f"evaluate_{suite}"
            usual = slow and attacks == ("autoattack",)
            name = f"autoattack_{suite}" if usual else own
            yield rule_name(name), suite, attacks, slow


def landscapes():
    """(suite, figure) for each figure that looks at checkpoints."""
    return [
        (name, figure)
        for name, suite in PARAMS.suites.items()
        for figure, entry in suite.figures.items()
        if entry.kind == "landscape"
    ]


def kept_for_landscapes(suite):
    """The trainings that keep networks for a landscape; a fault in one is told where it is asked
    for, and stops no other suite.
    """
    found = {}
    for name in (figure for owner, figure in landscapes() if owner == suite):
        try:
            keys = STEPS.landscape(suite, name).settings.keys
            found |= {key: STEPS.train(key) for key in keys}
        except UserError:
            continue
    return found


def files_among(targets):
    rules = {known.name for known in workflow.rules}
    return [name for name in targets if name not in rules]


@functools.cache
def asked():
    """The words of the command line, by Snakemake's own parser.

    Snakemake 9 sets `workflow.dag_settings.targets` only after it has read the rules, and asks
    nobody before it shows its own page on a file that no rule makes.
    """
    from snakemake.cli import get_argument_parser

    names = ("snakemake", "__main__.py")  # called by its name, or by -m
    words = sys.argv[1:] if Path(sys.argv[0]).name in names else []
    return get_argument_parser().parse_known_args(words)[0]


def requested_files():
    """The files on the command line that have to be made, or to be ours."""
    return [
        name
        for name in files_among(asked().targets)
        if not Path(name).exists() or name.startswith(("results/", "data/"))
    ]


def wanted_steps(targets, files):
    """The steps that targets ask for: files, whole suites, or else those under `build`."""
    suites = [name for name in PARAMS.suites if f"suite_{name}" in targets]
    steps = [find(name) for name in files]
    try:
        for suite in suites or ([] if files else PARAMS.build):
            steps += STEPS.suite(suite)
    except UserError as error:  # Snakemake would show a traceback
        leave(error)
    return below(steps)


def go_to_work():
    """Others see that this Snakemake works here; what a killed one's jobs have finished counts."""
    if not workflow.is_main_process:
        return
    if asked().unlock:
        try:
            refuse_if_at_work()
        except UserError as error:
            leave(error)
        return
    if not be_at_work():  # another one's marks are of jobs that run
        return
    set_notes_right()


def set_notes_right():
    """Snakemake notes of each output which job made it; what results say of themselves decides."""
    from snakemake.io import IOFile
    from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord
    from snakemake.persistence.file import FilePersistence

    notes = FilePersistence()

    def noted(path):
        record = notes.metadata(IOFile(path))
        return None if record is None else record.params or []

    for path in finished_jobs(STEPS):
        notes.cleanup_metadata(IOFile(path))
    wanted = wanted_steps(asked().targets, requested_files())
    for path, parameters in notes_due(wanted, noted):
        # By their checksums inputs that were only touched, or brought back by DVC, are known.
        old = notes.metadata(IOFile(path))
        note = MetadataRecord(
            record_format_version=RECORD_FORMAT_VERSION,
            params=parameters,
            input_checksums=(old and old.input_checksums) or {},
        )
        notes._delete_record(path)  # it may be a link into DVC's cache
        notes._write_record(path, note)


def try_own_code():
    """What a factory of the user's own gives is looked at before anything is trained."""
    targets = workflow.dag_settings.targets
    try:
        try_factories(wanted_steps(targets, files_among(targets)))
    except UserError as error:
        leave(error)
