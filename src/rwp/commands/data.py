"""`rwp data`: fetch data sets and unlabeled sources, look for duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import DEFAULT_PARAMS, ParamsFile
from rwp.errors import UserError

app = typer.Typer(no_args_is_help=True)
DataFolder = Annotated[Path, typer.Option("--data", help="Where data sets lie.")]


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A data set or unlabeled source of params.yaml.")],
    origin: Annotated[
        str | None,
        typer.Option("--from", help="A folder, file or URL that has the published files."),
    ] = None,
    data: DataFolder = Path("data"),
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Fetch, verify and convert a data set (to data/NAME) or unlabeled source (data/unlabeled)."""
    from rwp.pipeline.load import load_params
    from rwp.pipeline.steps import Steps

    params = load_params(params_file)
    steps = Steps(params)
    if name in params.datasets:
        from rwp.data.fetch import fetch_dataset
        from rwp.data.passport import PASSPORT

        if origin is not None and params.datasets[name].source == "digits":
            raise UserError(
                f"--from: expected none for {name}, whose digits come with scikit-learn, got "
                f"{origin}; leave it out"
            )
        mark = steps.fetch(name).fingerprint
        fetch_dataset(name, params.datasets[name], data, origin=origin, fingerprint=mark)
        _show(data / name, data / name / PASSPORT)
    elif name in params.unlabeled:
        from rwp.data.unlabeled import fetch_unlabeled

        if origin is not None and params.unlabeled[name].kind == "holdout":
            raise UserError(
                f"--from: expected none for {name}, the unlabeled share of "
                f"{params.unlabeled[name].dataset}, got {origin}; leave it out"
            )
        mark = steps.fetch_unlabeled(name).fingerprint
        fetch_unlabeled(name, params.unlabeled[name], data, origin=origin, fingerprint=mark)
        path = data / "unlabeled" / f"{name}.pt"
        _show(path, path.with_suffix(".json"))
    else:
        known = ", ".join([*params.datasets, *params.unlabeled])
        raise UserError(
            f"{params_file}: expected a data set or unlabeled source ({known}), got {name!r};"
            f" check the spelling"
        )


def _show(place: Path, passport: Path) -> None:
    """Where the images lie, and what was done to them."""
    from rwp.data.passport import read_passport

    print(place)
    for note in read_passport(passport).notes:
        print(f"note: {note}")


def _with_training(data: Path) -> set[str]:
    """The data sets that are fetched."""
    return {path.parent.name for path in data.glob("*/train.pt")}


@app.command()
def audit(
    name: Annotated[str, typer.Argument(help="A data set or unlabeled source of params.yaml.")],
    against: Annotated[str, typer.Option(help="The data set whose test split is compared with.")],
    min_similarity: Annotated[float, typer.Option(help="Correlation of pixels, (0, 1].")] = 0.95,
    data: DataFolder = Path("data"),
) -> None:
    """Count training or unlabeled images that are also, or nearly, in a test split."""
    from rwp.data.audit import audit as find
    from rwp.data.images import ImageSet

    unlabeled, labeled = data / "unlabeled" / f"{name}.pt", data / name / "train.pt"
    found = _with_training(data)
    found |= {path.stem for path in data.glob("unlabeled/*.pt")}
    for one in (name, against):
        if one not in found:
            raise UserError(
                f"{data}: expected a fetched data set or unlabeled source"
                f" ({', '.join(sorted(found)) or 'none is there'}), got {one!r}; check the spelling"
                f" or run: rwp data fetch {one}"
            )
    if not (data / against / "test.pt").exists() and against not in _with_training(data):
        raise UserError(
            f"--against: expected a data set, whose test images are compared with, got {against}, "
            "an unlabeled source without any; name a data set"
        )
    source = ImageSet.load(unlabeled if unlabeled.exists() else labeled)
    test = ImageSet.load(data / against / "test.pt")
    result = find(source.images, test.images, min_similarity=min_similarity, device="cpu")
    for kind, counts in result.summary().items():
        print(
            f"{kind}: {counts['pairs']} pairs, {counts['source_images']} of {len(source)} images"
            f" of {name}, {counts['test_images']} of {len(test)} test images of {against}"
        )
