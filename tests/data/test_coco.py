"""A user's own data set in COCO format, named in the config."""

import json
from pathlib import Path
from typing import Any

import pytest

import fam_det.modeling  # noqa: F401  makes Detectron2 ready, so it comes first
from fam_det.config import add_distillation_config
from fam_det.data import register_coco_datasets

from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog


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
    cfg = get_cfg()
    add_distillation_config(cfg)
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
        (config(["own_cells", folder + "/no.json", folder]), "own_cells.*no.json.*FileNotFound"),
        (config(["own_cells", str(broken), folder]), "own_cells.*broken.json.*not a COCO"),
        (config(["own_cells", str(annotations), folder], 80), "NUM_CLASSES: got 80, expected 1"),
    ]
    for cfg, message in cases:
        with pytest.raises(ValueError, match=message):
            register_coco_datasets(cfg)
    assert "own_cells" not in DatasetCatalog.list()
