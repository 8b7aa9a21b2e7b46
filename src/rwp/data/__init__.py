"""Data sets, unlabeled sources, splits, batches and on-device augmentation."""
