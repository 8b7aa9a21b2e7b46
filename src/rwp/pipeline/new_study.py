"""`rwp new`: a study of one's own, complete and commented, in a file of its own."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rwp.data.passport import PASSPORT, read_dataset_passport
from rwp.errors import UserError
from rwp.factories import is_own
from rwp.files import write_text
from rwp.pipeline.load import load_params
from rwp.pipeline.lookup import choose
from rwp.strict_yaml import parse_yaml
from rwp.studies import FOLDER

if TYPE_CHECKING:
    from rwp.data.images import SourceData

# CIFAR-10's published c_min, 1.7, as a share of log(10), the loss of a guess among its classes;
# CIFAR-100's 4.0 is 0.87 of log(100), SVHN's 2.2 is 0.96 of log(10).
C_MIN_SHARE = 0.74
_USUAL_SIZES = (32, 24, 16, 12, 8)  # of images that differ in size: the first that all can fill
_SMALL = 16  # up to this many pixels the demo's network will do
_MANY = 2000  # test images; a standard error of at most 1.1 points
_FEWEST = 10
_NAMED = 5  # classes in the first line


@dataclass(frozen=True)
class Images:
    """What a study is about.

    Attributes:
        declared: the line of `datasets`, empty for one that is there already.
        name: of the data set.
        classes: their names.
        num_train: training images.
        num_test: test images.
        shape: channels, height, width.
    """

    declared: str
    name: str
    classes: tuple[str, ...]
    num_train: int
    num_test: int
    shape: tuple[int, int, int]


def images_of_folder(
    name: str, folder: Path, size: int | None, *, project: Path = Path()
) -> Images:
    """Read a folder or archive of images: train/<class>/*.png and test/<class>/*.png.

    Its path is written as seen from the project, where the commands are run. Images of several
    sizes are brought to `size`, or else to 32 pixels, to fewer where some have fewer.

    Raises:
        UserError: as the reader of image folders; or a name that a study cannot hold.
    """
    place = folder if folder.is_absolute() else Path(os.path.relpath(folder, project))
    _refuse_unwritable("--images", "a folder with a name", str(place))
    data, size = _fitting(folder, size)
    for class_name in data.class_names:
        _refuse_unwritable(str(folder), "class folders with names", class_name)
    mean, std = data.train.channel_statistics()
    numbers = [", ".join(f"{value:.4f}" for value in values) for values in (mean, std)]
    resized = f", image_size: {size}" if size else ""
    declared = (
        f"datasets:\n  {name}: {{source: image_folder, path: {_text(place)}{resized},\n"
        f"    mean: [{numbers[0]}], std: [{numbers[1]}]}}  # of the training images, by channel\n"
    )
    return Images(
        declared,
        name,
        tuple(data.class_names),
        len(data.train),
        len(data.test),
        data.train.shape,
    )


def _refuse_unwritable(where: str, expected: str, name: str) -> None:
    """Bytes that are no UTF-8, or a line break."""
    if not name.isprintable():
        raise UserError(
            f"{where}: expected {expected} that can be written, got {name!r}; rename it"
        )


def _fitting(folder: Path, size: int | None) -> tuple[SourceData, int | None]:
    """The images as they are or as asked for, else at the first size that all can fill."""
    from rwp.data.sources.decode import SizeError
    from rwp.data.sources.image_folder import load_image_folder

    *sizes, last = (size,) if size is not None else (None, *_USUAL_SIZES)
    for chosen in sizes:
        try:
            return load_image_folder(str(folder), chosen), chosen
        except SizeError:
            continue
    return load_image_folder(str(folder), last), last


def images_of_dataset(name: str, folder: Path) -> Images:
    """Those of a data set of params.yaml, as its passport has them.

    Raises:
        UserError: it was not fetched.
    """
    passport = folder / name / PASSPORT
    if not passport.exists():
        raise UserError(
            f"{passport}: expected the data set, found none; run `rwp data fetch {name}`"
        )
    found = read_dataset_passport(folder / name)
    counts = {file: held.count for file, held in found.files.items()}
    return Images("", name, found.class_names, counts["train.pt"], counts["test.pt"], found.shape)


def _text(path: Path) -> str:
    quoted = str(path).replace("'", "''")
    return f"'{quoted}'"


def _name(name: str) -> str:
    """A name as YAML reads it as a text: one such as 2e1 is a number without quotes."""
    return name if isinstance(parse_yaml(name, where=name), str) else f'"{name}"'


def write_study(
    name: str,
    *,
    images: Path | None,
    dataset: str | None,
    size: int | None,
    network: str | None,
    params_file: Path,
) -> Path:
    """Write studies/NAME.yaml beside params.yaml.

    Raises:
        UserError: no such images, a name that is taken, both or none of images and dataset.
    """
    params = load_params(params_file)
    path = params_file.parent / FOLDER / f"{name}.yaml"
    if path.exists():
        raise UserError(f"{path}: expected a new name, got one that is there; remove it or rename")
    for table, names in (("suites", params.suites), ("datasets", params.datasets)):
        if name in names and (table == "suites" or images is not None):
            raise UserError(
                f"{params_file}: {table}.{name}: expected a new name, got one that is there; "
                "choose another"
            )
    if (images is None) == (dataset is None):
        raise UserError("expected --images FOLDER or --dataset NAME, got both or none; name one")
    if dataset is not None and size is not None:
        raise UserError(
            f"--image-size: expected it with --images alone, got {size} with --dataset {dataset}, "
            "whose images have their size; leave it out"
        )
    if network is not None and network not in params.networks and not is_own(network):
        choose(params.networks, network, "network, or package.module:factory,", "--network")
    if images is not None:
        found = images_of_folder(name, images, size, project=params_file.parent)
        if found.num_train < _FEWEST:
            raise UserError(
                f"{images}: expected at least {_FEWEST} training images, a tenth of which choose "
                f"the best epoch, got {found.num_train}; add some"
            )
    else:
        choose(params.datasets, dataset or "", "data set", "--dataset")
        found = images_of_dataset(dataset or "", params_file.parent / "data")
    write_text(path, study_text(name, found, network, known=tuple(params.networks)))
    try:
        load_params(params_file)  # what was written is read as a whole
    except UserError:
        path.unlink()
        raise
    return path


def study_text(name: str, found: Images, network: str | None, *, known: tuple[str, ...]) -> str:
    """The study as a file: at most 40 lines."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pixels, own_network = min(found.shape[1:]), None
    if network is None:
        network = "small" if pixels <= _SMALL else "preact-resnet-18"
    elif network not in known:
        network, own_network = f"{name}-net", network
    batch_size = 128 if found.num_train >= 5000 else 64 if found.num_train >= 1000 else 32
    more = ", ..." if len(found.classes) > _NAMED else ""
    environment = Environment(
        loader=PackageLoader("rwp.pipeline"),
        autoescape=False,  # YAML
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("study.yaml.j2").render(
        name=name,
        images=found,
        size="x".join(map(str, found.shape[1:])),
        shown=", ".join(found.classes[:_NAMED]) + more,
        dataset=_name(found.name),
        network=_name(network),
        own_network=own_network,
        batch_size=batch_size,
        learning_rate=f"{0.1 * batch_size / 128:g}",
        crop_padding=max(1, pixels // 8),
        c_min=f"{C_MIN_SHARE * math.log(len(found.classes)):.2f}",
        c_min_share=f"{C_MIN_SHARE:.0%}",
        num_examples=_MANY if found.num_test > _MANY else None,
    )
