"""Fingerprints: one hash that says what a result stands on."""
