# Attacks on a run's network, and the verdict on them. The cheap attacks on one network share a
# job, since starting one takes longer than FGSM; AutoAttack has its own.
for name, suite, attacks, slow in evaluation_rules():
    folder = f"{run_of(suite)}/evaluation/{{checkpoint}}"
    record = f"{folder}/{attacks[0]}.json"

    rule:
        name:
            name
        input:
            ask(record, "inputs"),
        output:
            [f"{folder}/{attack}.json" for attack in attacks],
        log:
            f"logs/evaluate/{folder}/{name}.log",
        benchmark:
            f"logs/benchmarks/evaluate/{folder}/{name}.tsv"
        conda:
            "../envs/rwp.yaml"
        threads: 1  # set in the job as OMP_NUM_THREADS: the bits are the same for all --cores
        resources:
            gpu=1,
            mem_mb=16000,
            runtime=720 if slow else 240,
        params:
            settings=ask(record, "settings"),
            fingerprint=ask(record, "step_fingerprint"),
            digest=ask(record, "digest"),
        message:
            "Attacking {input[0]}: "
            + ("AutoAttack" if slow else "the cheap attacks")
            + "; log: {log}"
        shell:
            "python -m rwp evaluate --resolved {params.settings:q}"
            " --fingerprint {params.fingerprint} > {log} 2>&1"


VERDICT = f"{RUN}/evaluation/{{checkpoint}}/diagnosis.json"


# Reads the records; where they raise doubt, it attacks again, also with images made for plain AT.
rule diagnose:
    input:
        ask(VERDICT, "inputs"),
    output:
        VERDICT,
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
        settings=ask(VERDICT, "settings"),
        fingerprint=ask(VERDICT, "fingerprint"),
    message:
        "Judging {wildcards.recipe} ({wildcards.dataset}, {wildcards.threat}) by its records; log: {log}"
    shell:
        "python -m rwp diagnose --resolved {params.settings:q}"
        " --fingerprint {params.fingerprint} > {log} 2>&1"


# The loss around a run's checkpoints, for the figures that show it.
for suite, figure in landscapes():
    losses = f"{base_of(suite)}/landscapes/{figure}.csv"

    rule:
        name:
            rule_name(f"landscape_{suite}_{figure}")
        input:
            ask(losses, "inputs"),
        output:
            losses=losses,
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
            settings=ask(losses, "settings"),
            fingerprint=ask(losses, "fingerprint"),
        message:
            "Measuring {output.losses}; log: {log}"
        shell:
            "python -m rwp landscape --resolved {params.settings:q}"
            " --fingerprint {params.fingerprint} --output {output.losses} > {log} 2>&1"


wildcard_constraints:
    checkpoint=either(CHECKPOINTS),
