"""Labels of images that nobody labelled: resumed, complete, and a data set of COCO's format."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fam_det.data.coco import register_coco_datasets
from fam_det.export.predictor import Predictor
from fam_det.recipes.data import read_coco
from fam_det.recipes.labels import (
    LabelFile,
    Labelled,
    LabelRequest,
    is_held_out,
    label_images,
    list_images,
    make_detect,
    read_header,
    write_dataset,
    write_unreadable,
)
from fam_det.recipes.scores import Scores, default_scores
from tests.modeling.small_detector import TEACHER, small_config

from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances

NAMES = ["a/2.png", "a/10.jpg", "1.png", "b.PNG"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of 30 x 40, one of them in a subfolder."""
    for name in NAMES:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").touch()
    return tmp_path / "in"


def find(file: Path) -> dict[str, Any]:
    """Objects of three scores, which a name decides."""
    objects = [
        {"bbox": [1.0, 2.0, 3.0 + i, 4.0], "score": score, "category_id": len(file.stem) % 2}
        for i, score in enumerate((0.9, 0.4, 0.1))
    ]
    return {"height": 30, "width": 40, "objects": objects}


def label(output: Path, folder: Path, detect: Callable[[Path], Any] = find) -> LabelFile:
    labels = LabelFile(output, [folder], {"teacher": "t"})
    labels.label(detect)
    return labels


def objects(boxes: Any, scores: Any = (), classes: Any = ()) -> Instances:
    found = Instances((30, 40))
    found.pred_boxes = Boxes(torch.tensor(boxes).view(-1, 4))
    found.scores, found.pred_classes = torch.tensor(scores), torch.tensor(classes)
    return found


def predictor(found: Instances) -> Predictor:
    return Predictor(lambda _: found, T.AugmentationList([]), "BGR", [], has_names=False)


def test_subfolders_are_searched_folder_by_folder(folder: Path) -> None:
    root, names = list_images([folder])
    assert root == folder
    assert list(names) == ["1.png", "b.PNG", "a/10.jpg", "a/2.png"]
    root, names = list_images([folder / "a", folder, folder])
    assert len(list(names)) == 4  # each once


def test_a_killed_call_is_resumed(folder: Path, tmp_path: Path) -> None:
    whole = label(tmp_path / "whole", folder)
    seen: list[str] = []

    def is_killed_at_the_third(file: Path) -> Any:
        seen.append(file.name)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return find(file)

    with pytest.raises(KeyboardInterrupt):
        label(tmp_path / "killed", folder, is_killed_at_the_third)
    with (tmp_path / "killed" / "detections.jsonl").open("a") as file:
        file.write('{"file_name": "a/10.j')  # half a line
    (folder / "0.png").touch()  # too late
    resumed = label(tmp_path / "killed", folder, lambda x: (seen.append(x.name), find(x))[1])
    assert seen == ["1.png", "b.PNG", "10.jpg", "10.jpg", "2.png"]
    assert resumed.file.read_bytes() == whole.file.read_bytes()


def test_a_call_that_labelled_nothing_does_not_fix_images_and_teacher(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image"):
        LabelFile(tmp_path / "out", [tmp_path / "empty"], {"teacher": "t"})
    LabelFile(tmp_path / "out", [folder / "a"], {"teacher": "cannot be downloaded"})
    assert list(LabelFile(tmp_path / "out", [folder], {"teacher": "t"}).names()) == [
        *("1.png", "b.PNG", "a/10.jpg", "a/2.png")
    ]


def test_labels_are_a_data_set(folder: Path, tmp_path: Path) -> None:
    labels = label(tmp_path / "out", folder)
    scores = Scores(high=[0.5, 0.95], low=[0.3, 0.5])
    file = tmp_path / "labels.json"
    written = write_dataset(Labelled(labels, ["x", "y"], scores), file)
    assert written == f"{file}: 1 objects and 4 uncertain ones in 4 images"
    data = read_coco("--train", str(file), str(folder))
    assert data.class_names == ("x", "y") and data.is_labelled_by_teacher
    content = json.loads(file.read_text())
    names = {x["id"]: x["file_name"] for x in content["images"]}
    found = {
        (names[x["image_id"]], x["category_id"], x["score"], x["iscrowd"])
        for x in content["annotations"]
    }
    certain, both = ("a/10.jpg", 1, 0.9, 0), ("a/10.jpg", 1, 0.4, 1)
    assert found == {certain, both} | {(x, 2, 0.9, 1) for x in ("1.png", "b.PNG", "a/2.png")}
    entry = ["labels", str(file), str(folder)]
    register_coco_datasets(small_config("DATASETS.COCO", str([entry])))
    assert len(DatasetCatalog.get("labels")) == 4


def test_files_that_cannot_be_read_are_listed(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.jpg").write_text("no image")
    (folder / "empty.png").touch()
    (folder / "line\nbreak.png").touch()
    Image.new("1", (40_000, 3_000)).save(folder / "huge.png")
    nothing = make_detect(predictor(objects([])), [0])
    for name, detect in (("found", nothing), ("headers", read_header)):
        labels = label(tmp_path / name, folder, detect)
        line = write_unreadable(labels, tmp_path / name / "unreadable.txt")
        assert line.startswith("4 images could not be read, see ")
        listed = (tmp_path / name / "unreadable.txt").read_text()
        for text in ("broken.jpg: not an image", "empty.png: is empty", "huge.png: 40000x3000"):
            assert text in listed
        assert sum("error" not in x for x in labels.lines()) == 4


def test_links_are_refused_before_any_image_is_labelled(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    (folder / "out.png").symlink_to(secret)
    request = LabelRequest(TEACHER, [folder], tmp_path / "labels", teacher_weights="none")
    with pytest.raises(ValueError, match=r"--images: 1 of 5 images are links .*'out.png'; if they"):
        label_images(request, headers_only=True)
    assert (request.output / "detections.jsonl").read_text().count("\n") == 1  # its head
    followed = replace(request, options=["DATASETS.FOLLOW_LINKS", "True"])
    assert label_images(followed, headers_only=True).labels.done == 5


def test_detections_are_of_the_chosen_classes(folder: Path) -> None:
    boxes = [[0.0, 0.0, 9.0, 9.0], [1.0, 2.0, 11.0, 22.0], [2.0, 2.0, 8.0, 8.0]]
    found = objects(boxes, scores=(0.9, 0.8, 0.01), classes=(5, 3, 3))
    line = make_detect(predictor(found), [7, 3])(folder / "1.png")
    (entry,) = line["objects"]
    assert (entry["category_id"], entry["bbox"]) == (1, [1.0, 2.0, 10.0, 20.0])
    assert (line["height"], line["width"]) == (30, 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folders": ["nowhere"]}, "--images: nowhere: there is no such folder"),
        ({"folders": ["."], "images": False}, "--images: .*: no image; expected files of .bmp"),
        ({"identity": {"teacher": "other"}}, "--output: .* of other images or of another teacher"),
    ],
)
def test_what_cannot_be_labelled_gets_one_line(
    folder: Path,
    tmp_path: Path,
    change: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    label(tmp_path / "out", folder)
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    folders = [Path(x) for x in change.get("folders", [str(folder)])]
    if "images" in change:
        monkeypatch.chdir("empty")
    output = tmp_path / ("out" if "identity" in change else "new")
    with pytest.raises(ValueError, match=message):
        LabelFile(output, folders, change.get("identity", {"teacher": "t"}))


def test_a_teacher_that_finds_nothing_is_said(folder: Path, tmp_path: Path) -> None:
    labels = label(tmp_path / "out", folder)
    labelled = Labelled(labels, ["x", "y"], default_scores(2, high=0.99))
    with pytest.raises(ValueError, match=r"--images: the teacher finds nothing with .* of 0.99 or"):
        write_dataset(labelled, tmp_path / "labels.json")
    assert not (tmp_path / "labels.json").exists()


def test_a_share_is_held_out() -> None:
    names = [f"{i}.png" for i in range(4000)]
    held = [name for name in names if is_held_out(name, 0.05)]
    assert 140 < len(held) < 260
    assert not any(is_held_out(name, 0.0) for name in names)
