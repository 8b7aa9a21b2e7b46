"""Evaluation: attacks on trained networks, their records, and verdicts on them."""
