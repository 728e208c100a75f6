"""Folders of images by class."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from classification.data.images import list_folder, load_folder, open_image, read_pixels
from tests.data.bad_images import BAD, GOOD, SIZE, rotated


def noise(seed: int, height: int = 8, width: int = 8) -> Image.Image:
    shape = (height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of three images each, written in no order."""
    for number, name in enumerate(["dog/2", "cat/1", "dog/0", "cat/2", "cat/0", "dog/1"]):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        noise(number).save(path)
    return tmp_path


def test_images_read_back_exactly_in_the_order_of_their_names(root: Path) -> None:
    loaded = load_folder(root, 8)
    assert loaded.classes == ["cat", "dog"]
    assert loaded.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert loaded.images.dtype == torch.uint8
    for image, number in zip(loaded.images, [4, 1, 3, 2, 5, 0], strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.array(noise(number)))


def test_files_are_listed_alike(root: Path) -> None:
    files = list_folder(root)
    assert [Path(path).relative_to(root).as_posix() for path in files.paths] == [
        *(f"cat/{number}.png" for number in range(3)),
        *(f"dog/{number}.png" for number in range(3)),
    ]
    assert files.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert files.labels.dtype == torch.int64


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_other_kinds_of_image_become_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    noise(1).convert(mode).save(path)
    assert read_pixels(str(path), 8).shape == (3, 8, 8)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize(("height", "width"), [(20, 40), (40, 20), (10, 10), (4, 6)])
def test_other_sizes_are_scaled_and_cropped_at_the_centre(
    height: int, width: int, suffix: str, tmp_path: Path
) -> None:
    """A square around the centre in white: after scaling it fills the whole crop."""
    side = min(height, width)
    pixels = np.zeros((height, width, 3), np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    pixels[top : top + side, left : left + side] = 255
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(pixels).save(path)
    result = read_pixels(str(path), 10)
    assert result.shape == (3, 10, 10)
    assert result[:, 1:-1, 1:-1].min() > 240  # JPEG's loss spills over the border


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("kept", [0, 20, 0.5])
def test_a_broken_image_is_named_in_one_error(root: Path, suffix: str, kept: float) -> None:
    path = root / "dog" / f"broken.{suffix}"
    noise(9).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
    with pytest.raises(ValueError, match=rf"dog/broken.{suffix}: .*([Tt]runcat|empty|not an im)"):
        load_folder(root, 8)


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_is_named(kind: str, tmp_path: Path) -> None:
    content, reason = BAD[kind]
    (tmp_path / "odd.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.png: ") as error:
        open_image(str(tmp_path / "odd.png"))
    assert reason in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", GOOD)
def test_an_odd_image_that_is_right_is_read(kind: str, tmp_path: Path) -> None:
    (tmp_path / "odd.png").write_bytes(GOOD[kind])
    image = open_image(str(tmp_path / "odd.png"))
    assert (image.mode, image.size) == ("RGB", SIZE)


def test_an_image_is_not_turned_as_its_exif_says(tmp_path: Path) -> None:
    """As in torchvision, whose ImageNet figures are those of images as they are stored."""
    (tmp_path / "odd.jpg").write_bytes(rotated())
    assert open_image(str(tmp_path / "odd.jpg")).size == SIZE


def test_a_folder_of_another_layout_is_named(tmp_path: Path) -> None:
    expected = "expected a folder with one folder of images a class"
    with pytest.raises(ValueError, match=f"missing: {expected}"):
        load_folder(tmp_path / "missing", 8)
    with pytest.raises(ValueError, match=expected):
        list_folder(tmp_path)
    (tmp_path / "empty_class").mkdir()
    with pytest.raises(ValueError, match=f"{expected}.*empty_class"):
        list_folder(tmp_path)
