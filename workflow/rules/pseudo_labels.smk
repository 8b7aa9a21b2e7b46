# RST: a naturally trained teacher labels the unlabeled images.


rule pseudo_label:
    input:
        teacher=lambda w: run_file(pseudo_spec(w).teacher, "last.pt"),
        images="data/unlabeled/{source}.pt",
        test="data/{dataset}/test.pt",
    output:
        labels="{base}/pseudo_labels/{dataset}/{source}-seed{seed}.pt",
        summary="{base}/pseudo_labels/{dataset}/{source}-seed{seed}.json",
    log:
        "logs/pseudo_labels/{base}/{dataset}/{source}-seed{seed}.log",
    resources:
        gpu=1,
    params:
        spec=lambda w: pseudo_spec(w).canonical(),
        fingerprint=lambda w: fingerprints.pseudo_label_fingerprint(pseudo_spec(w), PARAMS),
    shell:
        "rwp pseudo-label --resolved {params.spec:q} --fingerprint {params.fingerprint}"
        " > {log} 2>&1"


def pseudo_spec(wildcards):
    """The labeling step behind a file: that of any recipe of the suite that uses the source."""
    suite = suite_of(wildcards)
    place = {"dataset": wildcards.dataset, "seed": int(wildcards.seed)}
    threat = PARAMS.suites[suite].table2.threat_model
    for recipe in PARAMS.suites[suite].recipes:
        key = run_key(PARAMS, suite, recipe=recipe, threat=threat, **place)
        mix = train_spec(PARAMS, key).unlabeled
        if mix is not None and mix.source == wildcards.source:
            return pseudo_label_spec(mix)
    raise WorkflowError(f"no recipe of suite {suite} uses the source {wildcards.source}")
