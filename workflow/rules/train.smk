# One training per recipe, data set, threat model, network and seed.


rule train:
    input:
        lambda w: training_inputs(train_spec(PARAMS, key_of(w))),
    output:
        last=f"{RUN}/last.pt",
        best=f"{RUN}/best.pt",
        history=f"{RUN}/history.jsonl",
        record=f"{RUN}/run.json",
    log:
        f"logs/train/{RUN}.log",
    benchmark:
        f"logs/benchmarks/train/{RUN}.tsv"
    conda:
        "../envs/rwp.yaml"
    resources:
        gpu=lambda w: num_gpus(PARAMS, key_of(w)),
    params:
        spec=lambda w: train_spec(PARAMS, key_of(w)).canonical(),
        fingerprint=lambda w: fingerprints.training_fingerprint(
            train_spec(PARAMS, key_of(w)), PARAMS
        ),
    message:
        "Training {wildcards.recipe} on {wildcards.dataset} ({wildcards.threat}, {wildcards.network}, seed {wildcards.seed})"
    shell:
        "python -m rwp train --resolved {params.spec:q} --fingerprint {params.fingerprint}"
        " --gpus {resources.gpu} > {log} 2>&1"


wildcard_constraints:
    base="|".join(re.escape(base_of(name)) for name in PARAMS.suites),
    threat="none|"
    + "|".join(
        sorted(
            {
                re.escape(name)
                for suite in PARAMS.suites.values()
                for name in suite.threat_models
            }
        )
    ),
    network="|".join(re.escape(name) for name in PARAMS.networks),
    recipe="|".join(
        sorted(
            {
                re.escape(name)
                for suite in PARAMS.suites.values()
                for name in suite.recipes
            }
        )
    ),
    seed="[0-9]+",
