# Tables and the report, from what runs and evaluations left.


rule table1:
    input:
        lambda w: [
            run_file(key, name)
            for key in table1_runs(PARAMS, suite_of(w))
            for name in ("run.json", "history.jsonl")
        ],
    output:
        table="{base}/table1.csv",
        details="{base}/table1_details.csv",
    log:
        "logs/tables/{base}/table1.log",
    params:
        fingerprint=lambda w: table_fingerprint(suite_of(w), "table1"),
        suite=lambda w: suite_of(w),
    shell:
        "rwp table table1 --suite {params.suite} > {log} 2>&1"


rule table2:
    input:
        lambda w: table2_inputs(suite_of(w)),
    output:
        table="{base}/table2.csv",
        details="{base}/table2_details.csv",
    log:
        "logs/tables/{base}/table2.log",
    params:
        fingerprint=lambda w: table_fingerprint(suite_of(w), "table2"),
        suite=lambda w: suite_of(w),
    shell:
        "rwp table table2 --suite {params.suite} > {log} 2>&1"


rule report:
    input:
        "{base}/table1.csv",
        "{base}/table2.csv",
        lambda w: table2_inputs(suite_of(w)),
    output:
        report="{base}/report.html",
        metrics="{base}/metrics.json",
    log:
        "logs/tables/{base}/report.log",
    params:
        fingerprint=lambda w: table_fingerprint(suite_of(w), "report"),
        suite=lambda w: suite_of(w),
    shell:
        "rwp report --suite {params.suite} > {log} 2>&1"


def table2_inputs(suite):
    return [
        path
        for key in table2_runs(PARAMS, suite)
        for path in (run_file(key, "run.json"), *records(key))
    ]


def table_fingerprint(suite, name):
    return fingerprints.table_fingerprint(PARAMS, suite, name)
