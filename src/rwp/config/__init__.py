"""params.yaml, checked: what the user wrote (schema) becomes what each step needs (specs)."""
