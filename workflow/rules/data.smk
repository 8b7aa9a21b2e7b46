# Labeled data sets and unlabeled sources, each converted once to memory-mappable tensors; where
# Snakemake runs, as a cluster's nodes often reach no server.


rule fetch:
    output:
        train="data/{dataset}/train.pt",
        test="data/{dataset}/test.pt",
        passport="data/{dataset}/passport.json",
    log:
        "logs/fetch/{dataset}.log",
    localrule: True
    conda:
        "../envs/rwp.yaml"
    params:
        fingerprint=ask("data/{dataset}/train.pt", "fingerprint"),
    message:
        "Fetching {wildcards.dataset}; log: {log}"
    shell:
        "python -m rwp data fetch {wildcards.dataset} > {log} 2>&1"


rule fetch_unlabeled:
    input:
        ask("data/unlabeled/{source}.pt", "inputs"),
    output:
        images="data/unlabeled/{source}.pt",
        passport="data/unlabeled/{source}.json",
    log:
        "logs/fetch/unlabeled-{source}.log",
    localrule: True
    conda:
        "../envs/rwp.yaml"
    params:
        fingerprint=ask("data/unlabeled/{source}.pt", "fingerprint"),
    message:
        "Fetching the unlabeled images {wildcards.source}; log: {log}"
    shell:
        "python -m rwp data fetch {wildcards.source} > {log} 2>&1"


rule data:
    input:
        lambda _: [
            path
            for name in PARAMS.build
            for step in suite_steps(name)
            if step.kind == "fetch"
            for path in step.outputs
        ],


wildcard_constraints:
    dataset=either(PARAMS.datasets),
    source=either(PARAMS.unlabeled),
