"""Evaluation: attacks on finished networks, and what they leave as evidence."""
