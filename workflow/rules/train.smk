# One training per recipe, data set, threat model, network and seed. A run that keeps checkpoints
# for a figure has more files, so a rule of its own; Snakemake prefers it for having no wildcards.
for suite, key in training_jobs():

    rule:
        name:
            training_name(suite, key)
        input:
            training_param(suite, key, "input"),
        output:
            training_outputs(suite, key),
        log:
            f"logs/train/{training_folder(suite, key)}.log",
        benchmark:
            f"logs/benchmarks/train/{training_folder(suite, key)}.tsv"
        conda:
            "../envs/rwp.yaml"
        resources:
            gpu=training_param(suite, key, "gpus"),
        params:
            spec=training_param(suite, key, "spec"),
            fingerprint=training_param(suite, key, "fingerprint"),
        message:
            training_message(key)
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
