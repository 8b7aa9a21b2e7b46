# Tables, figures and the report, from what runs and evaluations left: seconds, not worth a
# cluster's queue. Each has its files, the command that writes them, and what a job says.
WRITING = "Writing {output[0]}"
SHOWN = {
    "table1": (
        ["{base}/table1.csv", "{base}/table1_details.csv"],
        "table table1",
        WRITING,
    ),
    "table2": (
        ["{base}/table2.csv", "{base}/table2_details.csv", "{base}/comparisons.csv"],
        "table table2",
        WRITING,
    ),
    "beyond": (
        ["{base}/beyond.csv", "{base}/beyond_details.csv"],
        "table beyond",
        WRITING,
    ),
    "claims": (
        ["{base}/claims.csv"],
        "claims",
        "Judging the claims by {wildcards.base}",
    ),
    "figure": (
        ["{base}/{figure}.csv", "{base}/{figure}.svg", "{base}/{figure}.png"],
        "figure {figure}",
        "Drawing {output[1]}",
    ),
    "report": (["{base}/report.html"], "report", WRITING),
    # Both tables in short, for `dvc metrics` and `dvc plots`: those of all suites in two folders.
    "metrics": (
        ["results/metrics/{suite}.json", "results/plots/{suite}.csv"],
        "table metrics",
        WRITING,
    ),
}


def suite_of(wildcards):
    names = dict(wildcards.items())
    return names.get("suite") or next(
        name for name in PARAMS.suites if base_of(name) == wildcards.base
    )


for name, (outputs, command, message) in SHOWN.items():

    rule:
        name:
            name
        input:
            ask(outputs[0], "inputs"),
        output:
            outputs,
        log:
            f"logs/{outputs[0]}.log",
        localrule: True
        conda:
            "../envs/rwp.yaml"
        params:
            fingerprint=ask(outputs[0], "fingerprint"),
            command=command,  # by name: a shell text is put together when the loop has ended
            suite=suite_of,
        message:
            message
        shell:
            "python -m rwp {params.command} --suite {params.suite} > {log} 2>&1"


wildcard_constraints:
    figure=either(name for s in PARAMS.suites.values() for name in s.figures),
