"""Whole-batch augmentation equals the plain loop over images."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from classification.data.augment import crop_and_mirror, draw_crops, normalise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(1))


def crop_one_by_one(images: Tensor, crops: Tensor, padding: int) -> Tensor:
    height, width = images.shape[2:]
    result = []
    for image, top, left, mirrored in zip(images, *crops.tolist(), strict=True):
        crop = F.pad(image, (padding,) * 4)[:, top : top + height, left : left + width]
        result.append(crop.flip(2) if mirrored else crop)
    return torch.stack(result)


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shape", [(40, 3, 32, 32), (7, 3, 5, 9), (3, 1, 1, 1)])
def test_batch_equals_naive_loop(shape: tuple[int, ...], flip: bool, padding: int) -> None:
    images = random_images(*shape)
    crops = draw_crops(len(images), padding, flip, generator())
    result = crop_and_mirror(images, crops, padding)
    assert result.dtype == torch.uint8
    assert torch.equal(result, crop_one_by_one(images, crops, padding))


def test_without_padding_and_flip_nothing_changes() -> None:
    images = random_images(8, 3, 32, 32)
    crops = draw_crops(8, 0, False, generator())
    assert torch.equal(crop_and_mirror(images, crops, 0), images)


def test_every_offset_is_drawn_as_often_and_half_are_mirrored() -> None:
    count = 81_000
    top, left, mirrored = draw_crops(count, 4, True, generator())
    places = torch.bincount(top * 9 + left, minlength=81)
    assert len(places) == 81
    # 1,000 expected of each, standard deviation 31
    assert (places - 1000).abs().max() < 5 * 31
    # 40,500 expected, standard deviation 142
    assert abs(int(mirrored.sum()) - 40_500) < 5 * 142
    # Mirrored or not has nothing to do with the place.
    assert abs(int(mirrored[top < 3].sum()) - 13_500) < 5 * 82


def test_drawing_leaves_the_default_generator_alone() -> None:
    state = torch.get_rng_state()
    draw_crops(8, 4, True, generator())
    assert torch.equal(torch.get_rng_state(), state)


def test_normalised_values_by_hand() -> None:
    images = torch.tensor([[[[0]], [[255]], [[51]]]], dtype=torch.uint8)
    result = normalise(images, torch.tensor([0.5, 0.4, 0.1]), torch.tensor([0.25, 0.2, 0.5]))
    # (0 - 0.5) / 0.25 = -2;  (1 - 0.4) / 0.2 = 3;  (0.2 - 0.1) / 0.5 = 0.2
    torch.testing.assert_close(result.flatten(), torch.tensor([-2.0, 3.0, 0.2]))
    assert images.flatten().tolist() == [0, 255, 51]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_crops_as_the_cpu_does() -> None:
    images = random_images(16, 3, 32, 32)
    crops = draw_crops(16, 4, True, generator())
    on_gpu = crop_and_mirror(images.cuda(), crops, 4)
    assert torch.equal(on_gpu.cpu(), crop_and_mirror(images, crops, 4))
