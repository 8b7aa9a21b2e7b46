"""Robust Weight Perturbation for adversarial training: the reference pipeline."""

__version__ = "0.1.0"
