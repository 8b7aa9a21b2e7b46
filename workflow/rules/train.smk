# One training per recipe, data set, threat model, network and seed. A run that keeps checkpoints
# for a figure has more files, so a rule of its own; Snakemake prefers it for having no wildcards.
def training_rules():
    """(name, folder, outputs, recipes): a rule for all runs of a suite, one for each recipe that
    others start from, and one for each run that keeps networks for a figure.
    """
    for name, suite in PARAMS.suites.items():
        starts = {r: epochs for r in suite.recipes if (epochs := kept_starts(suite, r))}
        plain = [recipe for recipe in suite.recipes if recipe not in starts]
        yield rule_name(f"train_{name}"), run_of(name), training_outputs(
            suite, run_of(name)
        ), plain
        for recipe, epochs in starts.items():
            folder = run_of(name).replace("{recipe}", recipe)
            kept = [f"{folder}/checkpoints/start{epoch}.pt" for epoch in epochs]
            outputs = [*training_outputs(suite, folder), *kept]
            yield rule_name(f"train_{name}_start_{recipe}"), folder, outputs, plain
        for number, (key, step) in enumerate(kept_for_landscapes(name).items()):
            yield rule_name(f"train_{name}_kept{number}"), str(
                key.directory
            ), step.outputs, plain


for name, folder, outputs, recipes in training_rules():

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
        wildcard_constraints:
            recipe=either(recipes),
        conda:
            "../envs/rwp.yaml"
        threads: 1  # set in the job as OMP_NUM_THREADS: the bits are the same for all --cores
        resources:
            gpu=ask(f"{folder}/run.json", "gpus"),
            cpus_per_task=per_gpu(f"{folder}/run.json", 1),  # on Slurm and Kubernetes
            mem_mb=per_gpu(f"{folder}/run.json", 16000),
            runtime=720,  # minutes, on a cluster; a longer training is taken up where it stopped
        params:
            settings=ask(f"{folder}/run.json", "settings"),
            fingerprint=ask(f"{folder}/run.json", "fingerprint"),
        message:
            "Training {output[0]}; log: {log}"
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
