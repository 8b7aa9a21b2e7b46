"""RST's labels: what a naturally trained teacher says of unlabeled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rwp.data.images import ImageSet
from rwp.data.labeling import agreement, pseudo_label, select_pseudo_labels
from rwp.errors import UserError
from rwp.files import atomic_write, write_json
from rwp.training.checkpoint import load_network, read_weights_file
from rwp.training.spec import PseudoLabelSpec

FORMAT = "rwp.pseudo_labels/1"
_BATCH = 512


def write_pseudo_labels(
    spec: PseudoLabelSpec,
    *,
    root: Path,
    fingerprint: str,
    device: str = "cpu",
    output: Path | None = None,
) -> dict[str, Any]:
    """Label the source with the teacher's last network; write labels and a JSON summary.

    Returns:
        The summary: counts per class, mean confidence, the teacher's accuracy on the labeled
        test split, and the agreement with shipped labels where the source has them.
    """
    target = output or root / spec.path
    place = torch.device(device)
    model, _ = load_network(root / spec.teacher.directory / "last.pt", device=device)
    unlabeled = ImageSet.load(root / "data" / "unlabeled" / f"{spec.source}.pt")
    labels, confidences = pseudo_label(model, unlabeled.images, batch_size=_BATCH, device=place)
    test = ImageSet.load(root / "data" / spec.teacher.dataset / "test.pt")
    answers, _ = pseudo_label(model, test.images, batch_size=_BATCH, device=place)
    kept = select_pseudo_labels(
        labels,
        confidences,
        min_confidence=spec.min_confidence,
        per_class=spec.per_class,
        num_classes=test.num_classes,
    )
    compared = agreement(labels, unlabeled.labels)
    summary = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "spec": spec.document(),
        "num_images": len(labels),
        "num_kept": len(kept),
        "class_counts": torch.bincount(labels[kept], minlength=test.num_classes).tolist(),
        "mean_confidence": float(confidences.double().mean()),
        "teacher_test_accuracy": float((answers == test.labels).double().mean()),
        "agreement_with_shipped_labels": (
            compared.agreeing / compared.compared if compared.compared else None
        ),
    }
    content = {"format": FORMAT, "labels": labels, "confidences": confidences, "kept": kept}
    with atomic_write(target) as temporary, temporary.open("wb") as stream:
        torch.save(content, stream)
    write_json(target.with_suffix(".json"), summary)
    return summary


def load_pseudo_labeled(images: Path, labels: Path) -> ImageSet:
    """The unlabeled images that were kept, with the teacher's labels.

    Raises:
        UserError: the two files do not belong together.
    """
    unlabeled = ImageSet.load(images)
    content = read_weights_file(labels)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{labels}: expected pseudo-labels, got another kind of file; label again")
    try:
        if len(content["labels"]) != len(unlabeled):
            raise UserError(
                f"expected {len(unlabeled)} labels for {images.name}, got {len(content['labels'])}"
            )
        found = ImageSet(unlabeled.images, content["labels"], unlabeled.num_classes)
        return found.select(content["kept"])
    except UserError as error:
        raise UserError(f"{labels}: {error}; label the images again") from error
    except Exception as error:  # a damaged file may hold anything
        raise UserError(
            f"{labels}: expected labels and the indices of those kept, got something else"
            f" ({type(error).__name__}); label the images again"
        ) from error
