# Attacks on a run's network, and the verdict on them. The cheap attacks on one network share a
# job, since starting one takes longer than FGSM; AutoAttack has its own.
for suite, slow in evaluation_jobs():

    rule:
        name:
            evaluation_name(suite, slow)
        input:
            network=evaluation_path(suite, "{checkpoint}.pt"),
            test="data/{dataset}/test.pt",
        output:
            evaluation_records(suite, slow),
        log:
            evaluation_path(
                suite,
                f"evaluation/{{checkpoint}}/{evaluation_name(suite, slow)}.log",
                "logs/evaluate",
            ),
        benchmark:
            evaluation_path(
                suite,
                f"evaluation/{{checkpoint}}/{evaluation_name(suite, slow)}.tsv",
                "logs/benchmarks/evaluate",
            )
        conda:
            "../envs/rwp.yaml"
        threads: 1  # set in the job as OMP_NUM_THREADS: the bits are the same for all --cores
        resources:
            gpu=1,
            mem_mb=16000,
            runtime=720 if slow else 240,
        params:
            spec=evaluation_param(suite, slow, "spec"),
            fingerprint=evaluation_param(suite, slow, "fingerprint"),
        message:
            evaluation_message(slow)
        shell:
            "python -m rwp evaluate --resolved {params.spec:q} --fingerprint {params.fingerprint}"
            " > {log} 2>&1"


# Reads the records; where they raise doubt, it attacks again, also with images made for plain AT.
rule diagnose:
    input:
        lambda w: records(key_of(w), None, w.checkpoint),
        network=f"{RUN}/{{checkpoint}}.pt",
        test="data/{dataset}/test.pt",
        twin=lambda w: twin_network(diagnosis_of(w)),
    output:
        f"{RUN}/evaluation/{{checkpoint}}/diagnosis.json",
    log:
        f"logs/evaluate/{RUN}/evaluation/{{checkpoint}}/diagnosis.log",
    conda:
        "../envs/rwp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=240,
    params:
        spec=lambda w: diagnosis_of(w).canonical(),
        fingerprint=lambda w: fingerprints.diagnosis_fingerprint(
            diagnosis_of(w), PARAMS
        ),
    message:
        "Judging {wildcards.recipe} ({wildcards.dataset}, {wildcards.threat}) by its records"
    shell:
        "python -m rwp diagnose --resolved {params.spec:q} --fingerprint {params.fingerprint}"
        " > {log} 2>&1"


# The loss around a run's checkpoints, for the figures that show it.
for suite, figure in landscapes():

    rule:
        name:
            f"landscape_{suite}_{figure}"
        input:
            landscape_inputs(suite, figure),
        output:
            losses=f"{base_of(suite)}/landscapes/{figure}.csv",
            record=f"{base_of(suite)}/landscapes/{figure}.json",
        log:
            f"logs/landscapes/{base_of(suite)}/{figure}.log",
        conda:
            "../envs/rwp.yaml"
        threads: 1
        resources:
            gpu=1,
            mem_mb=16000,
            runtime=240,
        params:
            spec=landscape_spec(PARAMS, suite, figure).canonical(),
            fingerprint=fingerprints.landscape_fingerprint(
                landscape_spec(PARAMS, suite, figure), PARAMS
            ),
        message:
            "Measuring {output.losses}"
        shell:
            "python -m rwp landscape --resolved {params.spec:q} --fingerprint {params.fingerprint}"
            " --output {output.losses} > {log} 2>&1"


wildcard_constraints:
    checkpoint="best|best_on_test|last",
