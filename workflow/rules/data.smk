# Labeled data sets and unlabeled sources, each converted once to memory-mappable tensors.


rule fetch:
    output:
        train="data/{dataset}/train.pt",
        test="data/{dataset}/test.pt",
        passport="data/{dataset}/passport.json",
    log:
        "logs/fetch/{dataset}.log",
    params:
        fingerprint=lambda w: fingerprints.dataset_fingerprint(w.dataset, PARAMS.datasets[w.dataset]),
    shell:
        "rwp data fetch {wildcards.dataset} > {log} 2>&1"


rule fetch_unlabeled:
    input:
        lambda w: holdout_passport(w.source),
    output:
        images="data/unlabeled/{source}.pt",
        passport="data/unlabeled/{source}.json",
    log:
        "logs/fetch/unlabeled-{source}.log",
    params:
        fingerprint=lambda w: fingerprints.unlabeled_fingerprint(
            w.source, PARAMS.unlabeled[w.source], PARAMS
        ),
    shell:
        "rwp data fetch {wildcards.source} > {log} 2>&1"


def holdout_passport(source):
    """The data set that a `holdout` source is a share of."""
    dataset = PARAMS.unlabeled[source].dataset
    return [f"data/{dataset}/passport.json"] if dataset else []


rule data:
    input:
        lambda w: sorted({path for name in PARAMS.build for path in suite_data(name)}),


def suite_data(suite):
    specs = suite_specs(PARAMS, suite)
    sources = [spec.unlabeled.source for spec in specs if spec.unlabeled]
    return [f"data/{spec.key.dataset}/train.pt" for spec in specs] + [
        f"data/unlabeled/{source}.pt" for source in sources
    ]


wildcard_constraints:
    dataset="|".join(re.escape(name) for name in PARAMS.datasets),
    source="|".join(re.escape(name) for name in PARAMS.unlabeled),
