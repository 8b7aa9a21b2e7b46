"""From params.yaml to steps: what each does, what it reads, whether it is done."""
