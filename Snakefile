# The whole pipeline: which step follows which. Settings are in params.yaml, algorithms in src/rwp.
#   snakemake --cores 2                            the suites under `build` in params.yaml
#   snakemake --cores 2 results/demo/table2.csv    one file, and what it stands on
from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/common.smk"


if SETTINGS is None:

    configfile: "params.yaml"

    for study in study_files("params.yaml"):

        configfile: str(study)

    SETTINGS = with_overrides(WRITTEN)


STEPS = checked_steps(SETTINGS)
PARAMS = STEPS.params
# Jobs of this process refuse to run other code than they were planned with.
plan_with({step: CODE[step] for step in PLANNED})


include: "workflow/rules/data.smk"
include: "workflow/rules/pseudo_labels.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        lambda _: [path for name in PARAMS.build for path in suite_targets(name)],


# `snakemake suite_demo`: all that one suite leaves, whatever `build` says.
for suite in PARAMS.suites:

    rule:
        name:
            f"suite_{suite}"
        input:
            lambda _, suite=suite: suite_targets(suite),


for folder in (".snakemake", "data", "logs", "results"):
    check_folder(folder)
check_place()
go_to_work()
for target in requested_files():
    find(target)


# Code of the user's own is tried on a tiny batch before anything is trained.
# What DVC has linked from its cache is made this project's own before Snakemake writes over it.
# Jobs get the settings as they are now, so that an edit of params.yaml changes none that waits.
onstart:
    copy_linked_files(Path(".snakemake/metadata"))
    try_own_code()
    os.environ[SETTINGS_FILE] = keep_settings(SETTINGS)


onerror:
    tell_of_experiment()
