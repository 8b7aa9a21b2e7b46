# RST: a naturally trained teacher labels the unlabeled images.
LABELS = "{base}/pseudo_labels/{dataset}/{source}-seed{seed}.pt"


rule pseudo_label:
    input:
        ask(LABELS, "inputs"),
    output:
        labels=LABELS,
        summary="{base}/pseudo_labels/{dataset}/{source}-seed{seed}.json",
    log:
        "logs/pseudo_labels/{base}/{dataset}/{source}-seed{seed}.log",
    conda:
        "../envs/rwp.yaml"
    threads: 1  # set in the job as OMP_NUM_THREADS: the bits are the same for all --cores
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=240,
    params:
        settings=ask(LABELS, "settings"),
        fingerprint=ask(LABELS, "fingerprint"),
    message:
        "Labeling {wildcards.source} by its teacher; log: {log}"
    shell:
        "python -m rwp pseudo-label --resolved {params.settings:q}"
        " --fingerprint {params.fingerprint} > {log} 2>&1"
