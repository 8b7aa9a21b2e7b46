# Attacks on a run's network. The cheap attacks on one network share a job, since starting one
# takes longer than FGSM; AutoAttack has its own.


def evaluation_of(wildcards, suite, slow):
    """The part of a suite's attacks that one job runs."""
    attacks = attack_names(PARAMS.suites[suite], slow=slow)
    where = {"checkpoint": wildcards.checkpoint}  # a keyword of Snakemake's at a line's start
    return evaluation_spec(PARAMS, key_of(wildcards, suite), attacks=attacks, **where)


def evaluation_rule(suite, slow):
    run = RUN.replace("{base}", base_of(suite))
    pattern = f"{run}/evaluation/{{checkpoint}}"
    names = attack_names(PARAMS.suites[suite], slow=slow)

    rule:
        name:
            f"{'autoattack' if slow else 'evaluate'}_{suite}"
        input:
            network=f"{run}/{{checkpoint}}.pt",
            test="data/{dataset}/test.pt",
        output:
            [f"{pattern}/{name}.json" for name in names],
        log:
            f"logs/evaluate/{pattern}-{'autoattack' if slow else 'attacks'}.log",
        benchmark:
            f"logs/benchmarks/evaluate/{pattern}-{'autoattack' if slow else 'attacks'}.tsv"
        resources:
            gpu=1,
        params:
            spec=lambda w: evaluation_of(w, suite, slow).canonical(),
            fingerprint=lambda w: fingerprints.evaluation_fingerprint(evaluation_of(w, suite, slow), PARAMS),
        shell:
            "rwp evaluate --resolved {params.spec:q} --fingerprint {params.fingerprint}"
            " > {log} 2>&1"


for suite_name in PARAMS.suites:
    for slow_attacks in (False, True):
        if attack_names(PARAMS.suites[suite_name], slow=slow_attacks):
            evaluation_rule(suite_name, slow_attacks)


wildcard_constraints:
    checkpoint="best|last",
