"""The data set: deterministic, fairly split, its boxes true, complete or not there."""

import contextlib
import io
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from fam_det.data.annotations import read_dataset
from fam_det.data.audit import find_shared_images, forget_warnings, kept_warnings
from tools.demo import scenes
from tools.demo.scenes import INK, DigitPool, SceneParams, build_dataset, draw_scenes


def load_coco(folder: Path, split: str) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(folder / "annotations" / f"{split}.json"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_train_and_val_show_different_digits_of_every_class(digits: DigitPool) -> None:
    split = scenes.split_digits(digits.labels, 0.2, seed=1)
    assert not set(split["train"]) & set(split["val"])
    assert len(split["train"]) + len(split["val"]) == len(digits.labels) == 5000
    assert Counter(digits.labels[split["val"]].tolist()) == dict.fromkeys(range(10), 100)


def test_each_half_draws_from_its_own_digits(digits: DigitPool, few: SceneParams) -> None:
    """Blank the digits of the other half: the scenes stay the same."""
    split = scenes.split_digits(digits.labels, few.val_fraction, few.seed)
    images = digits.images.copy()
    images[split["train"]] = 0
    without = draw_scenes(DigitPool(images, digits.labels), "val", few)
    for scene, other in zip(draw_scenes(digits, "val", few), without, strict=True):
        np.testing.assert_array_equal(scene.image, other.image)


def test_same_seed_same_scenes(digits: DigitPool, few: SceneParams) -> None:
    first, again, other = (
        list(draw_scenes(digits, "train", replace(few, seed=seed))) for seed in (3, 3, 4)
    )
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        assert (a.boxes, a.labels) == (b.boxes, b.labels)
        assert not np.array_equal(a.image, c.image)


def test_scenes_do_not_depend_on_how_many_there_are(digits: DigitPool, few: SceneParams) -> None:
    more = draw_scenes(digits, "train", replace(few, train_images=20))
    for a, b in zip(draw_scenes(digits, "train", few), more, strict=False):
        np.testing.assert_array_equal(a.image, b.image)


def test_boxes_are_inside_apart_and_of_the_sizes_asked_for(digits: DigitPool) -> None:
    params = SceneParams(train_images=30)
    for scene in draw_scenes(digits, "train", params):
        assert scene.image.shape == (params.height, params.width, 3)
        assert 1 <= len(scene.boxes) <= params.digits[1]
        for x, y, w, h in scene.boxes:
            assert x >= 0 and y >= 0 and x + w <= params.width and y + h <= params.height
            # Cropping to the ink once more may take a row of the smallest ones.
            assert params.sizes[0] - 2 <= max(w, h) <= params.sizes[1]
        for a, b in combinations(scene.boxes, 2):
            assert scenes.iou(a, b) <= params.max_iou


def test_a_training_finds_nothing_odd_in_them(tmp_path: Path) -> None:
    build_dataset(tmp_path / "scenes", SceneParams(train_images=60, val_images=30))
    forget_warnings()
    images = []
    for split in ("train", "val"):
        file, folder = scenes.split_paths(tmp_path / "scenes", split)
        content, _ = read_dataset(split, str(file), str(folder))
        images.append([folder / x["file_name"] for x in content["images"]])
    assert kept_warnings() == [] and list(find_shared_images(*images)) == []


def test_masks_are_tight(digits: DigitPool) -> None:
    rng = np.random.default_rng(0)
    for digit in digits.images[::250]:
        mask = scenes.draw_mask(rng, digit, 30)
        ink = mask >= INK
        assert all(edge.any() for edge in (ink[0], ink[-1], ink[:, 0], ink[:, -1]))


def test_painting_changes_the_box_up_to_its_edges_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    image = np.full((40, 50, 3), 127, dtype=np.float32)
    scenes.paint(rng, image, np.ones((10, 20), dtype=np.float32), (5, 6, 20, 10), 100)
    y, x = np.nonzero((image != 127).any(axis=2))
    assert (x.min(), y.min(), x.max() + 1, y.max() + 1) == (5, 6, 25, 16)


def test_iou_by_hand() -> None:
    # 2 x 3 of 4 x 4 and of 4 x 4: 6 / (16 + 16 - 6)
    assert scenes.iou((0, 0, 4, 4), (2, 1, 4, 4)) == pytest.approx(6 / 26)
    assert scenes.iou((0, 0, 4, 4), (4, 0, 4, 4)) == 0
    assert scenes.iou((0, 0, 4, 4), (9, 9, 4, 4)) == 0


def test_files_are_coco(tmp_path: Path, few: SceneParams) -> None:
    assert build_dataset(tmp_path / "data", few)
    for split, count in (("train", few.train_images), ("val", few.val_images)):
        coco = load_coco(tmp_path / "data", split)
        assert len(coco.imgs) == count
        assert [c["name"] for c in coco.loadCats(sorted(coco.cats))] == list("0123456789")
        for entry in coco.imgs.values():
            image = cv2.imread(str(tmp_path / "data" / split / "images" / entry["file_name"]))
            assert image.shape == (entry["height"], entry["width"], 3)
        for entry in coco.anns.values():
            assert entry["area"] == entry["bbox"][2] * entry["bbox"][3] > 0


def test_complete_build_is_used_again_and_other_parameters_are_not(
    tmp_path: Path, few: SceneParams
) -> None:
    assert build_dataset(tmp_path / "data", few)
    before = files(tmp_path / "data")
    assert not build_dataset(tmp_path / "data", few)
    assert files(tmp_path / "data") == before
    assert build_dataset(tmp_path / "data", replace(few, train_images=6))
    assert len(load_coco(tmp_path / "data", "train").imgs) == 6


def test_interrupted_build_is_built_again(
    tmp_path: Path, few: SceneParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    build_dataset(tmp_path / "whole", few)
    write = cv2.imwrite

    def stop_at_validation(name: str, *args: object) -> None:
        if "val" in name:
            raise KeyboardInterrupt
        write(name, *args)

    with monkeypatch.context() as patch:
        patch.setattr(cv2, "imwrite", stop_at_validation)
        with pytest.raises(KeyboardInterrupt):
            build_dataset(folder, few)
    assert not folder.exists()
    assert build_dataset(folder, few)
    assert files(folder) == files(tmp_path / "whole")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["data", "whole"]
