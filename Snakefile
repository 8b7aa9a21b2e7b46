# The whole pipeline. Numbers are in params.yaml, science in src/rwp; this says what follows what.
#   snakemake --cores 2                            the suites under `build` in params.yaml
#   snakemake --cores 2 results/demo/table2.csv    one file, and what it stands on
from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/common.smk"


configfile: "params.yaml"


PARAMS = checked_params(config)


include: "workflow/rules/data.smk"
include: "workflow/rules/pseudo_labels.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        [suite_targets(name) for name in PARAMS.build],


# `snakemake suite_demo`: all that one suite leaves, whatever `build` says.
for suite in PARAMS.suites:

    rule:
        name:
            f"suite_{suite}"
        input:
            whole_suite(suite),


check_targets()
