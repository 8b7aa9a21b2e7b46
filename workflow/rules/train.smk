# One training per recipe, data set, threat model, network and seed. A run that keeps checkpoints
# for a figure has more files, so a rule of its own; Snakemake prefers it for having no wildcards.
def training_rules():
    """(name, folder, outputs): a rule for all runs of a suite, and one for each that keeps more."""
    for name, suite in PARAMS.suites.items():
        yield f"train_{name}", run_of(name), training_outputs(suite, run_of(name))
        figures = [figure for owner, figure in landscapes() if owner == name]
        runs = [STEPS.landscape(name, figure).settings.key for figure in figures]
        for number, key in enumerate(dict.fromkeys(runs)):
            step = STEPS.train(key)
            yield f"train_{name}_kept{number}", str(key.directory), step.outputs


for name, folder, outputs in training_rules():

    rule:
        name:
            name
        input:
            ask(f"{folder}/run.json", "inputs"),
        output:
            outputs,
        log:
            f"logs/train/{folder}.log",
        benchmark:
            f"logs/benchmarks/train/{folder}.tsv"
        conda:
            "../envs/rwp.yaml"
        threads: 1  # set in the job as OMP_NUM_THREADS: the bits are the same for all --cores
        resources:
            gpu=ask(f"{folder}/run.json", "gpus"),
            mem_mb=16000,
            runtime=720,  # minutes, on a cluster; a longer training is taken up where it stopped
        params:
            settings=ask(f"{folder}/run.json", "settings"),
            fingerprint=ask(f"{folder}/run.json", "fingerprint"),
        message:
            "Training {output[0]}"
        shell:
            "python -m rwp train --resolved {params.settings:q} --fingerprint {params.fingerprint}"
            " --gpus {resources.gpu} > {log:q} 2>&1"


wildcard_constraints:
    base=either(base_of(name) for name in PARAMS.suites),
    threat=either(
        ["none", *(name for s in PARAMS.suites.values() for name in s.threat_models)]
    ),
    network=either(PARAMS.networks),
    recipe=either(name for s in PARAMS.suites.values() for name in s.recipes),
    seed="[0-9]+",
