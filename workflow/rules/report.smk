# Tables and the report, from what runs and evaluations left: seconds, not worth a cluster's queue.


rule table1:
    input:
        ask("{base}/table1.csv", "inputs"),
    output:
        table="{base}/table1.csv",
        details="{base}/table1_details.csv",
    log:
        "logs/tables/{base}/table1.log",
    localrule: True
    conda:
        "../envs/rwp.yaml"
    params:
        fingerprint=ask("{base}/table1.csv", "fingerprint"),
        suite=lambda w: suite_of(w),
    message:
        "Writing {output.table}"
    shell:
        "python -m rwp table table1 --suite {params.suite} > {log} 2>&1"


rule table2:
    input:
        ask("{base}/table2.csv", "inputs"),
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
        fingerprint=ask("{base}/table2.csv", "fingerprint"),
        suite=lambda w: suite_of(w),
    message:
        "Writing {output.table}"
    shell:
        "python -m rwp table table2 --suite {params.suite} > {log} 2>&1"


rule beyond:
    input:
        ask("{base}/beyond.csv", "inputs"),
    output:
        table="{base}/beyond.csv",
        details="{base}/beyond_details.csv",
    log:
        "logs/tables/{base}/beyond.log",
    localrule: True
    conda:
        "../envs/rwp.yaml"
    params:
        fingerprint=ask("{base}/beyond.csv", "fingerprint"),
        suite=lambda w: suite_of(w),
    message:
        "Writing {output.table}"
    shell:
        "python -m rwp table beyond --suite {params.suite} > {log} 2>&1"


rule claims:
    input:
        ask("{base}/claims.csv", "inputs"),
    output:
        table="{base}/claims.csv",
    log:
        "logs/tables/{base}/claims.log",
    localrule: True
    conda:
        "../envs/rwp.yaml"
    params:
        fingerprint=ask("{base}/claims.csv", "fingerprint"),
        suite=lambda w: suite_of(w),
    message:
        "Judging the claims by {wildcards.base}"
    shell:
        "python -m rwp claims --suite {params.suite} > {log} 2>&1"


rule figure:
    input:
        ask("{base}/{figure}.csv", "inputs"),
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
        fingerprint=ask("{base}/{figure}.csv", "fingerprint"),
        suite=lambda w: suite_of(w),
    message:
        "Drawing {output.vector}"
    shell:
        "python -m rwp figure {wildcards.figure} --suite {params.suite} > {log} 2>&1"


rule report:
    input:
        ask("{base}/report.html", "inputs"),
    output:
        report="{base}/report.html",
    log:
        "logs/tables/{base}/report.log",
    localrule: True
    conda:
        "../envs/rwp.yaml"
    params:
        fingerprint=ask("{base}/report.html", "fingerprint"),
        suite=lambda w: suite_of(w),
    message:
        "Writing {output.report}"
    shell:
        "python -m rwp report --suite {params.suite} > {log} 2>&1"


wildcard_constraints:
    figure=either(name for s in PARAMS.suites.values() for name in s.figures),


# Both tables in short, for `dvc metrics` and `dvc plots`: those of all suites in two folders.
rule metrics:
    input:
        ask("results/metrics/{suite}.json", "inputs"),
    output:
        metrics="results/metrics/{suite}.json",
        plot="results/plots/{suite}.csv",
    log:
        "logs/tables/metrics/{suite}.log",
    localrule: True
    conda:
        "../envs/rwp.yaml"
    params:
        fingerprint=ask("results/metrics/{suite}.json", "fingerprint"),
    message:
        "Writing {output.metrics}"
    shell:
        "python -m rwp table metrics --suite {wildcards.suite} > {log} 2>&1"
