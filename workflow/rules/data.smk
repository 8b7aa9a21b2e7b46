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
        fingerprint=lambda w: fingerprints.dataset_fingerprint(
            w.dataset, PARAMS.datasets[w.dataset]
        ),
    message:
        "Fetching {wildcards.dataset}"
    shell:
        "python -m rwp data fetch {wildcards.dataset} > {log} 2>&1"


rule fetch_unlabeled:
    input:
        lambda w: holdout_passport(w.source),
    output:
        images="data/unlabeled/{source}.pt",
        passport="data/unlabeled/{source}.json",
    log:
        "logs/fetch/unlabeled-{source}.log",
    localrule: True
    conda:
        "../envs/rwp.yaml"
    params:
        fingerprint=lambda w: fingerprints.unlabeled_fingerprint(
            w.source, PARAMS.unlabeled[w.source], PARAMS
        ),
    message:
        "Fetching the unlabeled images {wildcards.source}"
    shell:
        "python -m rwp data fetch {wildcards.source} > {log} 2>&1"


rule data:
    input:
        lambda w: sorted({path for name in PARAMS.build for path in suite_data(name)}),


wildcard_constraints:
    dataset="|".join(re.escape(name) for name in PARAMS.datasets),
    source="|".join(re.escape(name) for name in PARAMS.unlabeled),
