"""RST's labels: what a naturally trained teacher says of unlabeled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from rwp.core.modes import evaluation_mode
from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.files import atomic_write, write_json
from rwp.training.checkpoint import load_network, read_weights_file
from rwp.training.spec import PseudoLabelSpec


@torch.no_grad()
def pseudo_label(
    model: nn.Module,
    images: UInt8[Tensor, "n c h w"],
    *,
    batch_size: int,
    device: torch.device | str,
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """The model's most probable class of each image and its softmax probability, on the CPU.

    The model is in eval mode inside and left as found; the same model and batch size give the
    same bits on the same machine.

    Raises:
        UserError: a probability is not a number.
    """
    labels, confidences = [], []
    # cuDNN chooses among algorithms by their speed unless told not to
    exact = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    with evaluation_mode(model), exact:
        for batch in images.split(batch_size):
            logits = model(batch.to(device).float() / 255)
            confidence, label = logits.float().softmax(dim=1).max(dim=1)
            labels.append(label.cpu())
            confidences.append(confidence.cpu())
    if not torch.cat(confidences).isfinite().all():
        raise UserError("teacher: expected finite logits, got NaN; train the teacher again")
    return torch.cat(labels), torch.cat(confidences)


def select_pseudo_labels(
    labels: Int[Tensor, " n"],
    confidences: Float[Tensor, " n"],
    *,
    min_confidence: float | None,
    per_class: int | None,
    num_classes: int,
) -> Int[Tensor, " kept"]:
    """The sorted indices of the pseudo-labels to train on; None switches a rule off.

    First those below `min_confidence` go; then each class keeps its `per_class` most confident
    ones (the earlier image where two tie), so that the classes are equally large.

    Raises:
        UserError: nothing is left, or a class has fewer than `per_class`.
    """
    kept = torch.arange(len(labels))
    if min_confidence is not None:
        kept = (confidences >= min_confidence).nonzero().flatten()
    if per_class is not None:
        kept = torch.cat(
            [
                _most_confident(kept[labels[kept] == index], confidences, per_class, index)
                for index in range(num_classes)
            ]
        )
    if len(kept) == 0:
        raise UserError(
            f"min_confidence: expected some pseudo-labels at or above {min_confidence}, got none; "
            "lower it"
        )
    return kept.sort().values


def _most_confident(
    members: Int[Tensor, " k"], confidences: Float[Tensor, " n"], count: int, index: int
) -> Int[Tensor, " count"]:
    if len(members) < count:
        raise UserError(
            f"per_class: expected at least {count} pseudo-labels of every class, "
            f"got {len(members)} of class {index}; lower it"
        )
    order = confidences[members].argsort(descending=True, stable=True)
    return members[order[:count]]


class Agreement(NamedTuple):
    """How many of the images with a shipped label got the same from the teacher."""

    compared: int
    agreeing: int


def agreement(labels: Int[Tensor, " n"], shipped: Int[Tensor, " n"]) -> Agreement:
    """Compare pseudo-labels with the source's own labels, where it has them (0 or more)."""
    known = shipped >= 0
    return Agreement(int(known.sum()), int((labels == shipped)[known].sum()))


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

    Raises:
        UserError: the images are not like those that the teacher has learned from.
    """
    target = output or root / spec.path
    place = torch.device(device)
    unlabeled = ImageSet.load(root / "data" / "unlabeled" / f"{spec.source}.pt")
    test = ImageSet.load(root / "data" / spec.teacher.dataset / "test.pt")
    _require_alike(unlabeled, test, spec)
    model, _ = load_network(root / spec.teacher.directory / "last.pt", device=device)
    labels, confidences = pseudo_label(model, unlabeled.images, batch_size=_BATCH, device=place)
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


def _require_alike(unlabeled: ImageSet, labeled: ImageSet, spec: PseudoLabelSpec) -> None:
    """A network may take images of another size, and answer something."""
    found, wanted = (
        f"{images.num_classes} classes and images (channels, height, width) {list(images.shape)}"
        for images in (unlabeled, labeled)
    )
    if found != wanted:
        raise UserError(
            f"unlabeled.{spec.source}: expected {wanted} as in {spec.teacher.dataset}, which the "
            f"teacher learned, got {found}; write dataset: {spec.teacher.dataset} there if they "
            "fit it, or name another source"
        )


def load_pseudo_labeled(images: Path, labels: Path, *, num_classes: int) -> ImageSet:
    """The unlabeled images that were kept, with the teacher's labels of so many classes.

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
        found = ImageSet(unlabeled.images, content["labels"], num_classes)
        return found.select(content["kept"])
    except UserError as error:
        raise UserError(f"{labels}: {error}; label the images again") from error
    except Exception as error:  # a damaged file may hold anything
        raise UserError(
            f"{labels}: expected labels and the indices of those kept, got something else"
            f" ({type(error).__name__}); label the images again"
        ) from error
