"""Image files as they come, through the loaders of a training and of an evaluation."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fam_det.data.audit import find_odd_images
from fam_det.training.detection import Trainer, load_config
from tests.data.bad_images import BAD, GOOD, SIZE, encoded, noise, rotated

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

NAME = "odd_images"
CONFIG = "configs/BloodCells/teacher_R_18.yaml"


@pytest.fixture(autouse=True)
def unregistered() -> Iterator[None]:
    yield
    if NAME in DatasetCatalog.list():
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def config(folder: Path, image: bytes, size: tuple[int, int] = SIZE, *opts: Any) -> CfgNode:
    """Of three images, the first of which is this one; the annotation file says its size."""
    (folder / "odd.png").write_bytes(image)
    images = [{"id": 1, "file_name": "odd.png", "width": size[0], "height": size[1]}]
    for number in (2, 3):
        (folder / f"{number}.png").write_bytes(encoded(noise(), "PNG"))
        images.append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 64})
    objects = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [5, 5, 20, 20]} for i in (1, 2, 3)
    ]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "a"}]}
    (folder / "all.json").write_text(json.dumps(content))
    entry = [NAME, str(folder / "all.json"), str(folder)]
    options = {
        "DATASETS.COCO": [entry],
        "DATASETS.TRAIN": (NAME,),
        "DATASETS.TEST": (NAME,),
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.MIN_SIZE_TRAIN": (64,),
        "INPUT.RANDOM_FLIP": "none",
        "MODEL.DEVICE": "cpu",
        "MODEL.ROI_HEADS.NUM_CLASSES": 1,
        "SEED": 1,
        "SOLVER.IMS_PER_BATCH": 1,
    }
    pairs = [str(word) for pair in options.items() for word in pair]
    return load_config(CONFIG, [*pairs, *(str(word) for word in opts)])


def trained_on(cfg: CfgNode) -> list[dict[str, Any]]:
    return [x for batch in islice(Trainer.build_train_loader(cfg), 12) for x in batch]


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_is_skipped_by_a_training_and_ends_an_evaluation(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image, reason = BAD[kind]
    cfg = config(tmp_path, image, SIZE, "DATASETS.TEST", "()")
    assert {x["image_id"] for x in trained_on(cfg)} == {2, 3}
    (line,) = [r.getMessage() for r in caplog.records if r.name == "fam_det.data.images"]
    assert line.endswith("; skipped (1 of at most 10)")
    assert line.startswith(f"{tmp_path}/odd.png: ") and reason in line and "\n" not in line
    with pytest.raises(ValueError, match=r"/odd\.png: .*; an evaluation needs every im") as error:
        list(Trainer.build_test_loader(cfg, NAME))
    assert reason in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", sorted(BAD.keys() - {"truncated JPEG"}))
def test_what_a_header_tells_ends_a_run_at_its_start(kind: str, tmp_path: Path) -> None:
    """In validation images; in those of a training where most are so."""
    image, reason = BAD[kind]
    message = f"1 of a sample of 3 images cannot be read, such as 'odd.png' .*{re.escape(reason)}"
    with pytest.raises(ValueError, match=message):
        config(tmp_path, image)
    images = [{"file_name": "odd.png", "width": 96, "height": 64}] * 2
    found = [x.is_error for x in find_odd_images(images, tmp_path)]
    assert found == [True]


def test_files_that_a_mapper_of_ones_own_reads_are_not_looked_at(tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", np.zeros((64, 96)))
    images = [{"file_name": name, "width": 96, "height": 64} for name in ("0.npy", "gone.png")]
    assert list(find_odd_images(images, tmp_path, needs_all=True)) == []
    (tmp_path / "0.tif").write_bytes(BAD["16 bits, TIFF"][0])
    images[0]["file_name"] = "0.tif"
    (found,) = find_odd_images(images, tmp_path, needs_all=True)
    assert not found.is_error and "if a mapper of your own reads them" in found.text


@pytest.mark.parametrize("opts", [("DATASETS.STRICT", True), ("DATALOADER.MAX_UNREADABLE", 0)])
def test_where_none_may_be_bad_the_first_ends_the_training(
    opts: tuple[Any, ...], tmp_path: Path
) -> None:
    image, _ = BAD["truncated JPEG"]
    with pytest.raises(
        ValueError, match=r"/odd\.png: .* truncated .*; DATALOADER.MAX_UNREADABLE lets"
    ):
        trained_on(config(tmp_path, image, SIZE, *opts))
    with pytest.raises(ValueError, match=r"1 of a sample of 3 .* 'odd.png' \(is empty\)"):
        config(tmp_path, b"", SIZE, "DATASETS.TEST", "()", *opts)


@pytest.mark.parametrize("kind", GOOD)
def test_odd_images_that_are_right_are_read(kind: str, tmp_path: Path) -> None:
    cfg = config(tmp_path, GOOD[kind], SIZE, "DATASETS.STRICT", True)
    assert {x["image_id"] for x in trained_on(cfg)} == {1, 2, 3}
    shown = next(iter(Trainer.build_test_loader(cfg, NAME)))[0]
    assert (shown["height"], shown["width"]) == (64, 96)


def test_an_image_is_turned_as_its_exif_says_and_its_size_must_be_that(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = trained_on(config(tmp_path, rotated(), (64, 96)))
    assert next(x["image"].shape for x in images if x["image_id"] == 1) == (3, 96, 64)
    trained_on(config(tmp_path, rotated(), (96, 64), "DATASETS.TEST", "()"))
    assert "odd.png: SizeMismatchError: Mismatched image shape, got (64, 96), expect (96, 64)" in (
        caplog.text
    )


def test_cmyk_has_the_colours_that_it_shows(tmp_path: Path) -> None:
    red = encoded(Image.new("CMYK", SIZE, (0, 255, 255, 0)), "JPEG", quality=100)
    cfg = config(tmp_path, red, SIZE, "INPUT.FORMAT", "RGB")
    image = next(x["image"] for x in trained_on(cfg) if x["image_id"] == 1)
    np.testing.assert_allclose(image.float().mean((1, 2)), [255, 0, 0], atol=3)
