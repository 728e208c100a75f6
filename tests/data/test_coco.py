"""A user's own data set in COCO format, named in the config."""

import json
from pathlib import Path
from typing import Any

import pytest

import fam_det.modeling  # noqa: F401  registers models and weights
from fam_det.config import default_config
from fam_det.data import register_coco_datasets
from fam_det.data.coco import check_registered, find_categories
from fam_det.training.detection import Trainer, load_lazy_config

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

LAZY = """
model = optimizer = lr_multiplier = {}
dataloader = {
    "train": {"dataset": {"names": ["python_train"]}},
    "test": {"dataset": {"names": "python_val"}},
}
train = {"device": "cpu", "amp": {"enabled": False}}
"""


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    box = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 5, 5], "area": 25, "iscrowd": 0}
    content = {
        "images": [{"id": 7, "file_name": "a.png", "height": 10, "width": 12}],
        "annotations": [box],
        "categories": [{"id": 3, "name": "cell"}],
    }
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    return path


def config(entry: Any, classes: int = 1) -> CfgNode:
    cfg = default_config()
    cfg.DATASETS.COCO = [entry]
    cfg.DATASETS.TRAIN = ("own_cells",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
    return cfg


def test_own_data_is_registered_from_the_config(annotations: Path) -> None:
    images = str(annotations.parent / "images")
    cfg = config(["own_cells", str(annotations), images])
    register_coco_datasets(cfg)
    register_coco_datasets(cfg)  # a second run in the same process
    (record,) = DatasetCatalog.get("own_cells")
    assert record["file_name"] == f"{images}/a.png"
    assert record["annotations"][0]["category_id"] == 0
    assert MetadataCatalog.get("own_cells").thing_classes == ["cell"]
    assert MetadataCatalog.get("own_cells").evaluator_type == "coco"
    DatasetCatalog.remove("own_cells")
    MetadataCatalog.remove("own_cells")


def test_wrong_entries_name_entry_and_reason(annotations: Path) -> None:
    folder = str(annotations.parent / "images")
    broken = annotations.with_name("broken.json")
    broken.write_text('{"images": [')
    cases = [
        (config(["own_cells", str(annotations)]), "DATASETS.COCO.*annotation file, image folder"),
        (config(["own_cells", str(annotations), folder + "x"]), "own_cells: the image folder .*x'"),
        (config(["own_cells", folder + "/no.json", folder]), "own_cells.*no.json.*No such file"),
        (config(["own_cells", str(broken), folder]), "own_cells.*broken.json.*is not JSON"),
        (config(["own_cells", str(annotations), folder], 80), "NUM_CLASSES: got 80, expected 1"),
    ]
    for cfg, message in cases:
        with pytest.raises(ValueError, match=message):
            register_coco_datasets(cfg)
    assert "own_cells" not in DatasetCatalog.list()


def edited(annotations: Path, **changes: Any) -> list[str]:
    """The entry of a file whose one object has other fields."""
    content = json.loads(annotations.read_text())
    content["annotations"][0].update(changes)
    annotations.write_text(json.dumps(content))
    (annotations.parent / "images" / "a.png").touch()
    return ["own_cells", str(annotations), str(annotations.parent / "images")]


MASK = {"size": [10, 12], "counts": [120]}
UNFIT: list[tuple[dict[str, Any], list[Any], str]] = [
    ({"iscrowd": 1}, [], "train.json: has no annotations, expected boxes of objects"),
    ({}, ["MODEL.MASK_ON", True], "annotation 1 has no segmentation, which MODEL.MASK_ON needs"),
    ({"segmentation": MASK}, ["MODEL.MASK_ON", True], "MASK_FORMAT: got 'polygon', expected 'bit"),
    ({}, ["MODEL.KEYPOINT_ON", True], "MODEL.KEYPOINT_ON: got True, but .* no names"),
    ({"bbox": [1, 2, 0, 5]}, ["DATASETS.STRICT", True], "1 of 1 objects have a box that is empty"),
]


@pytest.mark.parametrize(("changes", "opts", "message"), UNFIT)
def test_objects_that_do_not_fit_the_config(
    annotations: Path, changes: dict[str, Any], opts: list[Any], message: str
) -> None:
    cfg = config(edited(annotations, **changes))
    cfg.merge_from_list(opts)
    with pytest.raises(ValueError, match=message):
        register_coco_datasets(cfg)


def test_an_image_may_be_missing_from_a_training_but_not_from_an_evaluation(
    annotations: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = edited(annotations)
    (annotations.parent / "images" / "a.png").unlink()
    register_coco_datasets(config(entry))
    assert "1 of 1 images are missing, such as 'a.png'" in caplog.text
    DatasetCatalog.remove("own_cells")
    for key, value in (("TEST", ("own_cells",)), ("STRICT", True)):
        cfg = config(entry)
        cfg.DATASETS[key] = value
        with pytest.raises(ValueError, match="1 of 1 images are not in"):
            register_coco_datasets(cfg)


def test_a_registered_data_set_must_have_the_models_classes() -> None:
    cfg = config(["own_cells", "", ""], classes=3)
    cfg.DATASETS.TRAIN = ("coco_2017_train",)
    with pytest.raises(ValueError, match="ROI_HEADS.NUM_CLASSES: got 3, expected 80, .*coco_2017"):
        check_registered(cfg)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    check_registered(cfg)


def test_data_sets_registered_in_python_must_have_the_same_classes(tmp_path: Path) -> None:
    """Their files say which, where Detectron2 has not loaded them yet."""
    for name, classes in {"python_train": "ab", "python_val": "ba"}.items():
        categories = [{"id": i, "name": x} for i, x in enumerate(classes)]
        content = {"images": [], "annotations": [], "categories": categories}
        (tmp_path / name).write_text(json.dumps(content))
        register_coco_instances(name, {}, str(tmp_path / name), str(tmp_path))
    cfg = default_config()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("python_train",), ("python_val",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    message = "the classes of python_val are not those of python_train: the same in another order"
    with pytest.raises(ValueError, match=message):
        register_coco_datasets(cfg)
    with pytest.raises(ValueError, match=message):
        Trainer(cfg)  # in a script of one's own
    lazy = tmp_path / "lazy.py"
    lazy.write_text(LAZY)
    with pytest.raises(ValueError, match=message):
        load_lazy_config(str(lazy), [])


def test_categories_are_those_of_the_annotation_file_in_the_order_of_ids(tmp_path: Path) -> None:
    categories = [{"id": 9, "name": "cell", "supercategory": "x"}, {"id": 3, "name": "dot"}]
    content = {"images": [], "annotations": [], "categories": categories}
    (tmp_path / "train.json").write_text(json.dumps(content))
    # Neither the images nor the test set are on this machine.
    cfg = config(["own_cells", str(tmp_path / "train.json"), "gone"], classes=2)
    cfg.DATASETS.COCO.append(["own_val", "gone.json", "gone"])
    cfg.DATASETS.TEST = ("own_val",)
    assert find_categories(cfg) == [{"id": 3, "name": "dot"}, {"id": 9, "name": "cell"}]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 4
    assert find_categories(cfg) == []
    cfg.DATASETS.TEST, cfg.MODEL.ROI_HEADS.NUM_CLASSES = ("coco_2017_val",), 80
    assert find_categories(cfg)[79] == {"id": 90, "name": "toothbrush"}
