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
    conda:
        "../envs/rwp.yaml"
    threads: 1  # set in the job as OMP_NUM_THREADS: the bits are the same for all --cores
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=240,
    params:
        spec=lambda w: pseudo_spec(w).canonical(),
        fingerprint=lambda w: fingerprints.pseudo_label_fingerprint(
            pseudo_spec(w), PARAMS
        ),
    message:
        "Labeling {wildcards.source} by its teacher"
    shell:
        "python -m rwp pseudo-label --resolved {params.spec:q} --fingerprint {params.fingerprint}"
        " > {log} 2>&1"
