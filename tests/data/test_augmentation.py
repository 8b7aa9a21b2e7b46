"""The distribution is torchvision's: every single outcome, and how often each comes."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional as tv

from rwp.data.augmentation import _rotate, augment
from rwp.data.spec import AugmentationSpec
from rwp.errors import UserError

MODES = {"zero": "constant", "reflect": "reflect"}


def policy(**fields) -> AugmentationSpec:
    given = {"crop_padding": 0, "padding_mode": "zero", "flip": False, "rotation_degrees": 0.0}
    return AugmentationSpec(**{**given, **fields})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distinct(channels: int = 3, height: int = 6, width: int = 5) -> torch.Tensor:
    """One image whose pixels all differ and differ from the fill."""
    count = channels * height * width
    return torch.arange(1, count + 1, dtype=torch.uint8).view(1, channels, height, width)


def histogram(images: torch.Tensor) -> dict[bytes, int]:
    values, counts = np.unique(images.flatten(1).numpy(), axis=0, return_counts=True)
    return {row.tobytes(): int(n) for row, n in zip(values, counts, strict=True)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_flip_have_torchvisions_outcomes_equally_often(mode, flip):
    """All (2p+1)^2 crops, mirrored or not, and nothing else; frequencies pass a chi-square."""
    image, padding, draws = distinct(), 2, 20_000
    ours = histogram(
        augment(
            image.expand(draws, -1, -1, -1),
            policy(crop_padding=padding, padding_mode=mode, flip=flip),
            generator=generator(),
        )
    )
    padded = tv.pad(image, [padding] * 4, padding_mode=MODES[mode])
    crops = [
        tv.crop(padded, top, left, 6, 5)
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    ]
    outcomes = crops + [tv.hflip(crop) for crop in crops] if flip else crops
    expected = histogram(torch.cat(outcomes))  # by reflection some coincide
    assert set(ours) == set(expected)
    observed = np.array([ours[outcome] for outcome in expected])
    share = np.array([*expected.values()]) / len(outcomes)
    assert _chi_square_z(observed, draws * share) < 4


def test_a_flip_alone_mirrors_half_of_the_images():
    image, draws = distinct(), 2_000
    ours = histogram(
        augment(image.expand(draws, -1, -1, -1), policy(flip=True), generator=generator())
    )
    assert set(ours) == set(histogram(torch.cat([image, image.flip(3)])))
    assert min(ours.values()) > 0.45 * draws  # more than four standard deviations


def _chi_square_z(counts: np.ndarray, expected: np.ndarray) -> float:
    """How many standard deviations the statistic lies above its mean."""
    freedom = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))


@pytest.mark.parametrize("mode", MODES)
def test_a_two_sample_test_cannot_tell_ours_from_torchvision_on_pil(mode):
    """The whole pipeline with rotation: per-pixel means of many draws of both."""
    array = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    draws = 4000
    reference = transforms.Compose(
        [
            transforms.RandomCrop(16, padding=3, padding_mode=MODES[mode]),
            transforms.RandomHorizontalFlip(),
            transforms.RandomRotation(15),
            transforms.PILToTensor(),
        ]
    )
    torch.manual_seed(1)
    image = Image.fromarray(array)
    theirs = torch.stack([reference(image) for _ in range(draws)]).double()
    ours = augment(
        torch.from_numpy(array).permute(2, 0, 1).expand(draws, -1, -1, -1),
        policy(crop_padding=3, padding_mode=mode, flip=True, rotation_degrees=15.0),
        generator=generator(2),
    ).double()
    for moment in (lambda x: x, torch.square, lambda x: x * x.roll(1, 3), lambda x: (x == 0) * 1.0):
        a, b = moment(theirs), moment(ours)
        error = ((a.var(0) + b.var(0)) / draws).sqrt() + 1e-9
        z = (a.mean(0) - b.mean(0)) / error
        assert z.abs().max() < 5
        assert 0.85 < z.square().mean().sqrt() < 1.15


@pytest.mark.parametrize("degrees", [-15.0, -7.3, 0.0, 4.9, 15.0, 90.0, 137.0])
@pytest.mark.parametrize("side", [8, 32, 33])
def test_a_rotation_moves_pixels_as_torchvision_does(degrees, side):
    image = torch.from_numpy(
        np.random.default_rng(0).integers(1, 256, (2, 3, side, side), dtype=np.uint8)
    )
    ours = _rotate(image, torch.full((2,), math.radians(degrees)))
    theirs = tv.rotate(image, degrees)
    assert (ours == theirs).double().mean() > 0.995  # the rest are ties of rounding


def test_angles_are_uniform_within_the_bound():
    """A mark at the right border shows the angle: its height is side/2 * sin(angle)."""
    side = 401
    image = torch.zeros(1, 1, side, side, dtype=torch.uint8)
    image[..., side // 2 - 1 : side // 2 + 2, side - 30 : side - 27] = 1
    turned = augment(
        image.expand(300, -1, -1, -1), policy(rotation_degrees=15.0), generator=generator()
    )
    heights = turned.double().mul(torch.arange(side).view(1, 1, side, 1)).sum((1, 2, 3))
    mean_row = heights / turned.double().sum((1, 2, 3)) - side // 2
    angles = torch.rad2deg(torch.asin(-mean_row / (side - 28.5 - side / 2))).sort().values
    uniform = torch.linspace(-15, 15, 300, dtype=torch.float64)
    assert angles.abs().max() < 15.3
    assert (angles - uniform).abs().max() < 30 * 1.95 / math.sqrt(300)  # Kolmogorov, p = 0.001


def test_images_are_augmented_independently():
    out = augment(
        distinct(1, 4, 4).expand(64, -1, -1, -1),
        policy(crop_padding=1, flip=True),
        generator=generator(),
    )
    assert len(histogram(out)) > 10


@pytest.mark.parametrize("rotation", [0.0, 15.0])
@pytest.mark.parametrize("mode", MODES)
def test_bytes_and_floats_give_the_same(mode, rotation):
    images = torch.randint(256, (5, 3, 9, 7), dtype=torch.uint8, generator=generator())
    chosen = policy(crop_padding=2, padding_mode=mode, flip=True, rotation_degrees=rotation)
    as_bytes = augment(images, chosen, generator=generator(5))
    as_floats = augment(images.float() / 255, chosen, generator=generator(5))
    assert as_floats.dtype == torch.float32
    assert torch.equal(as_bytes.float() / 255, as_floats)


def test_images_come_from_their_own_place_in_the_batch():
    marks = torch.arange(1, 9, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 3, 6, 6)
    out = augment(marks, policy(crop_padding=2, flip=True), generator=generator())
    assert out.amax((1, 2, 3)).tolist() == list(range(1, 9))
    assert torch.equal(out.amax((2, 3)), marks[:, :, 0, 0])


def test_nothing_to_do_returns_the_images():
    images = distinct()
    assert augment(images, policy(), generator=generator()) is images


def test_the_input_is_left_alone():
    images = distinct().expand(4, -1, -1, -1).clone()
    before = images.clone()
    augment(images, policy(crop_padding=2, flip=True, rotation_degrees=9.0), generator=generator())
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop_padding": -1}, "crop_padding: expected pixels >= 0, got -1"),
        ({"padding_mode": "edge"}, "padding_mode: expected zero or reflect, got edge"),
        ({"rotation_degrees": 200.0}, "rotation_degrees: expected degrees"),
    ],
)
def test_bad_policies_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        policy(**fields)


def test_reflection_needs_an_image_larger_than_the_padding():
    with pytest.raises(UserError, match="expected less than the image side 5 when reflecting"):
        augment(distinct(), policy(crop_padding=5, padding_mode="reflect"), generator=generator())


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
def test_a_gpu_augments_as_the_cpu_does(mode):
    images = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8, generator=generator())
    chosen = policy(crop_padding=4, padding_mode=mode, flip=True)
    here = augment(images, chosen, generator=generator(1))
    there = augment(images.cuda(), chosen, generator=generator(1))
    assert torch.equal(here, there.cpu())
    turning = policy(rotation_degrees=15.0)
    here = augment(images, turning, generator=generator(1))
    there = augment(images.cuda(), turning, generator=generator(1))
    assert (here == there.cpu()).double().mean() > 0.999
