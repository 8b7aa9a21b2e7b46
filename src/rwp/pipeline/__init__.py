"""From params.yaml to steps: what each is, what it stands on, whether it is done."""
