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
    classes, pixels = len(found.classes), min(found.shape[1:])
    networks = own = ""
    if network is None:
        network = "small" if pixels <= _SMALL else "preact-resnet-18"
    elif network not in known:
        networks, network = f"networks:\n  {name}-net: {{family: {network}}}\n", f"{name}-net"
        own = "  # before your network; false if it normalizes itself\n     "
    batch = 128 if found.num_train >= 5000 else 64 if found.num_train >= 1000 else 32
    few = classes < 4
    autoattack = (
        "autoattack-few-classes: {kind: autoattack, version: few-classes}  # of two or three"
        if few
        else "autoattack: {kind: autoattack, version: standard}"
    )
    part = f"\n      num_examples: {_MANY}  # of the test images" if found.num_test > _MANY else ""
    size = "x".join(map(str, found.shape[1:]))
    dataset, network = _name(found.name), _name(network)
    shown = ", ".join(found.classes[:_NAMED]) + (", ..." if classes > _NAMED else "")
    return f"""\
# {found.num_train} training and {found.num_test} test images of {size} pixels, {classes} classes ({shown}).
# snakemake --cores 2 results/{name}/table2.csv; add {name} to `build` in params.yaml for `dvc repro`.
{found.declared}{networks}suites:
  {name}:
    description: AT, AWP and RWP on {found.name}
    seeds: [0]  # one training per recipe and seed
    selection: held_out  # the best epoch is chosen on a share of the training images
    held_out_fraction: {0.1 if found.num_train < 10000 else 0.02}
    test_curve: true
    monitor_num_steps: 20  # PGD steps of the measurement after each epoch
    threat_models: {{linf: {{norm: linf, epsilon: 8/255, step_size: 2/255}}}}  # on [0, 1] pixels
    network: {network}
    training: {{epochs: 30, batch_size: {batch}, learning_rate: {0.1 * batch / 128:g}, \
schedule: piecewise_by_epoch,
      decay_epochs: [15, 22], decay_factor: 0.1, momentum: 0.9, nesterov: false, weight_decay: 0.0005,
      normalize: true,{own} crop_padding: {max(1, pixels // 8)}, padding_mode: zero, flip: true, \
rotation_degrees: 0,
      precision: fp32, attack_num_steps: 10, attack_bn_mode: train}}
    objectives:
      at: {{loss: at}}  # natural, at, trades, mart or package.module:factory
    perturbations:
      awp: {{gamma: 0.01, num_weight_steps: 1, norm_scope: layer, mask: all, warmup_epochs: 0}}
      rwp: {{gamma: 0.01, num_weight_steps: 10, norm_scope: model, mask: below, warmup_epochs: 0,
        c_min: {C_MIN_SHARE * math.log(classes):.2f}}}  # nats: {C_MIN_SHARE:.0%} of log(classes), \
as 1.7 is on CIFAR-10; vary it
    recipes: {{at: {{objective: at}}, at-awp: {{objective: at, perturbation: awp}}, \
at-rwp: {{objective: at, perturbation: rwp}}}}
    evaluation:
      batch_size: 256{part}
      seed: 0
      attacks:
        natural: {{kind: natural}}
        fgsm: {{kind: fgsm}}
        pgd-20: {{kind: pgd, num_steps: 20}}
        cw-100: {{kind: cw, num_steps: 100, kappa: 0}}
        {autoattack}
    table1: {{datasets: [{dataset}], threat_models: [linf], recipes: [at, at-awp, at-rwp], \
network: {network}}}
    table2: {{dataset: {dataset}, threat_model: linf, recipes: [at, at-awp, at-rwp], \
network: {network}}}
"""  # noqa: E501
