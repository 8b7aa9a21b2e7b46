# Tables and the report, from what runs and evaluations left: seconds, not worth a cluster's queue.


rule table1:
    input:
        lambda w: run_files(table1_runs(PARAMS, suite_of(w))),
    output:
        table="{base}/table1.csv",
        details="{base}/table1_details.csv",
    log:
        "logs/tables/{base}/table1.log",
    localrule: True
    conda:
        "../envs/rwp.yaml"
    params:
        fingerprint=lambda w: fingerprints.table_fingerprint(
            PARAMS, suite_of(w), "table1"
        ),
        suite=lambda w: suite_of(w),
    message:
        "Writing {output.table}"
    shell:
        "python -m rwp table table1 --suite {params.suite} > {log} 2>&1"


rule table2:
    input:
        lambda w: table2_inputs(suite_of(w)),
    output:
        table="{base}/table2.csv",
        details="{base}/table2_details.csv",
        comparisons="{base}/comparisons.csv",
    log:
        "logs/tables/{base}/table2.log",
    localrule: True
    conda:
        "../envs/rwp.yaml"
    params:
        fingerprint=lambda w: fingerprints.table_fingerprint(
            PARAMS, suite_of(w), "table2"
        ),
        suite=lambda w: suite_of(w),
    message:
        "Writing {output.table}"
    shell:
        "python -m rwp table table2 --suite {params.suite} > {log} 2>&1"


rule beyond:
    input:
        lambda w: beyond_inputs(suite_of(w)),
    output:
        table="{base}/beyond.csv",
        details="{base}/beyond_details.csv",
    log:
        "logs/tables/{base}/beyond.log",
    localrule: True
    conda:
        "../envs/rwp.yaml"
    params:
        fingerprint=lambda w: fingerprints.table_fingerprint(
            PARAMS, suite_of(w), "beyond"
        ),
        suite=lambda w: suite_of(w),
    message:
        "Writing {output.table}"
    shell:
        "python -m rwp table beyond --suite {params.suite} > {log} 2>&1"


rule figure:
    input:
        lambda w: figure_inputs(suite_of(w), w.figure),
    output:
        data="{base}/{figure}.csv",
        vector="{base}/{figure}.svg",
        picture="{base}/{figure}.png",
    log:
        "logs/figures/{base}/{figure}.log",
    localrule: True
    conda:
        "../envs/rwp.yaml"
    params:
        fingerprint=lambda w: fingerprints.table_fingerprint(
            PARAMS, suite_of(w), w.figure
        ),
        suite=lambda w: suite_of(w),
    message:
        "Drawing {output.vector}"
    shell:
        "python -m rwp figure {wildcards.figure} --suite {params.suite} > {log} 2>&1"


rule report:
    input:
        "{base}/table1.csv",
        "{base}/table2.csv",
        lambda w: reported_files(suite_of(w)),
        lambda w: table2_inputs(suite_of(w)),
    output:
        report="{base}/report.html",
        metrics="{base}/metrics.json",
    log:
        "logs/tables/{base}/report.log",
    localrule: True
    conda:
        "../envs/rwp.yaml"
    params:
        fingerprint=lambda w: fingerprints.table_fingerprint(
            PARAMS, suite_of(w), "report"
        ),
        suite=lambda w: suite_of(w),
    message:
        "Writing {output.report}"
    shell:
        "python -m rwp report --suite {params.suite} > {log} 2>&1"


wildcard_constraints:
    figure="|".join(
        sorted(
            {
                re.escape(name)
                for suite in PARAMS.suites.values()
                for name in suite.figures
            }
        )
    )
    or "none",
