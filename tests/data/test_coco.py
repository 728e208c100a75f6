"""A user's own data set in COCO format, named in the config."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fam_det.modeling  # noqa: F401  registers models and weights
from fam_det.config import default_config
from fam_det.data import build_train_loader, register_coco_datasets
from fam_det.data.coco import check_known, check_registered, find_categories, load_test_sets
from fam_det.training.detection import Trainer, load_lazy_config
from fam_det.training.evaluation import build_evaluator

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode

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
    Image.new("1", (12, 10)).save(tmp_path / "images" / "a.png")
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


def test_each_config_of_a_process_has_its_own_files_under_a_shared_name(annotations: Path) -> None:
    images = str(annotations.parent / "images")
    other = annotations.with_name("other.json")
    other.write_text(annotations.read_text().replace('"cell"', '"dot"').replace("7", "8"))
    configs = [config(["own_cells", str(file), images]) for file in (annotations, other)]
    for cfg in configs:
        cfg.DATASETS.TEST, cfg.SOLVER.IMS_PER_BATCH = ("own_cells",), 1
        register_coco_datasets(cfg)
    for cfg, number, name in ((configs[0], 7, "cell"), (configs[1], 8, "dot")):
        assert build_train_loader(cfg).records[0]["image_id"] == number
        assert build_evaluator(cfg, "own_cells")._coco_api.getImgIds() == [number]
        assert MetadataCatalog.get("own_cells").thing_classes == [name]


def test_a_file_that_has_changed_is_read_again(annotations: Path) -> None:
    cfg = config(["own_cells", str(annotations), str(annotations.parent / "images")])
    for name in ("cell", "dot"):
        annotations.write_text(annotations.read_text().replace('"cell"', f'"{name}"'))
        register_coco_datasets(cfg)
        DatasetCatalog.get("own_cells")
        assert MetadataCatalog.get("own_cells").thing_classes == [name]


def edited(annotations: Path, **changes: Any) -> list[str]:
    """The entry of a file whose one object has other fields."""
    content = json.loads(annotations.read_text())
    content["annotations"][0].update(changes)
    annotations.write_text(json.dumps(content))
    return ["own_cells", str(annotations), str(annotations.parent / "images")]


def test_a_polygon_of_two_points_costs_no_box_without_masks(annotations: Path) -> None:
    entry = edited(annotations, segmentation=[[1, 2, 3, 4]])
    for has_masks in (False, True):
        cfg = config(entry)
        cfg.MODEL.MASK_ON = has_masks
        register_coco_datasets(cfg)
        (record,) = DatasetCatalog.get("own_cells")
        boxes = [(x["category_id"], x["bbox"], x["bbox_mode"]) for x in record["annotations"]]
        assert boxes == ([] if has_masks else [(0, [1, 2, 5, 5], BoxMode.XYWH_ABS)])


MASK = {"size": [10, 12], "counts": [120]}
UNFIT: list[tuple[dict[str, Any], list[Any], str]] = [
    ({"iscrowd": 1}, [], "train.json: all 1 annotations are crowds .iscrowd 1., which a training"),
    ({}, ["MODEL.MASK_ON", True], "annotation 1 has no segmentation, which MODEL.MASK_ON needs"),
    ({"segmentation": MASK}, ["MODEL.MASK_ON", True], "MASK_FORMAT: got 'polygon', expected 'bit"),
    ({}, ["MODEL.KEYPOINT_ON", True], "MODEL.KEYPOINT_ON: got True, but .* no names"),
    ({"ignore": 1}, [], "annotation 1: ignore: got 1, expected 0; use iscrowd: 1"),
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
    content = json.loads(annotations.read_text())
    content["images"].append(content["images"][0] | {"id": 8, "file_name": "b.png"})
    annotations.write_text(json.dumps(content))
    entry = edited(annotations)
    register_coco_datasets(config(entry))
    assert "1 of 2 images are missing, such as 'b.png'" in caplog.text
    DatasetCatalog.remove("own_cells")
    for key, value in (("TEST", ("own_cells",)), ("STRICT", True)):
        cfg = config(entry)
        cfg.DATASETS[key] = value
        with pytest.raises(ValueError, match="1 of 2 images are not in"):
            register_coco_datasets(cfg)


def test_a_registered_data_set_must_have_the_models_classes() -> None:
    cfg = config(["own_cells", "", ""], classes=3)
    cfg.DATASETS.TRAIN = ("coco_2017_train",)
    with pytest.raises(ValueError, match="ROI_HEADS.NUM_CLASSES: got 3, expected 80, .*coco_2017"):
        check_registered(cfg)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    check_registered(cfg)


@pytest.mark.parametrize("objects", [None, []])
def test_a_test_set_may_have_no_annotations_but_no_training_set(
    annotations: Path, objects: list[Any] | None
) -> None:
    entry = edited(annotations)
    content = json.loads(annotations.read_text())
    content |= {"annotations": objects}
    if objects is None:
        del content["annotations"]
    annotations.write_text(json.dumps(content))
    cfg = config(entry)
    with pytest.raises(ValueError, match="annotations"):
        register_coco_datasets(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ("own_cells",)
    register_coco_datasets(cfg)
    assert DatasetCatalog.get("own_cells")[0]["annotations"] == []
    found = {"image_id": 7, "category_id": 0, "bbox": [1, 1, 3, 3], "score": 0.5}
    evaluator = build_evaluator(cfg, "own_cells", str(annotations.parent))
    evaluator._predictions = [{"image_id": 7, "instances": [dict(found)]}]
    results = evaluator.evaluate()
    assert results == {} if objects is None else np.isnan(results["bbox"]["AP"])
    written = json.loads((annotations.parent / "coco_instances_results.json").read_text())
    assert written == [found | {"category_id": 3}]


def test_an_evaluation_does_not_read_the_training_set(annotations: Path) -> None:
    cfg = config(["own_cells", "gone.json", "gone"])
    cfg.DATASETS.COCO.append(["own_val", *edited(annotations)[1:]])
    cfg.DATASETS.TEST = ("own_val",)
    register_coco_datasets(cfg, tested=cfg.DATASETS.TEST)
    assert len(DatasetCatalog.get("own_val")) == 1


def test_data_sets_that_nobody_has_registered_are_named() -> None:
    cfg = default_config()
    cfg.DATASETS.TEST = ("coco_2017_vall",)
    cfg.DATASETS.TRAIN = ("own_cells",)
    with pytest.raises(ValueError, match="TEST: got 'coco_2017_vall', .* did you mean coco_2017_v"):
        check_known(cfg, eval_only=True)
    with pytest.raises(ValueError, match="TRAIN: got 'own_cells', which is not registered"):
        check_known(cfg)


def test_test_sets_that_cannot_be_loaded_are_named_at_the_start(annotations: Path) -> None:
    cfg = default_config()
    cfg.DATASETS.TEST = ("own_val",)
    register_coco_instances("own_val", {}, "gone.json", "gone")
    with pytest.raises(ValueError, match="TEST: own_val cannot be loaded: .* No such file .*gone"):
        load_test_sets(cfg)
    DatasetCatalog.register("own_records", list)
    cfg.DATASETS.TEST = ("own_records",)
    with pytest.raises(ValueError, match="DATASETS.TEST: own_records has no images"):
        load_test_sets(cfg)
    empty = json.loads(annotations.read_text()) | {"images": [], "annotations": []}
    annotations.write_text(json.dumps(empty))
    cfg = config(["own_cells", str(annotations), str(annotations.parent / "images")])
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ("own_cells",)
    with pytest.raises(ValueError, match="own_cells: .*train.json: has no images, expected one"):
        register_coco_datasets(cfg)


@pytest.mark.parametrize("number", [-1, 1])
def test_records_of_classes_that_the_model_has_not_are_named(number: int) -> None:
    entry = {"bbox": [1, 1, 4, 4], "bbox_mode": BoxMode.XYWH_ABS, "category_id": number}
    record = {"file_name": "a.png", "image_id": 1, "annotations": [entry]}
    DatasetCatalog.register("own_records", lambda: [record])
    cfg = default_config()
    cfg.DATASETS.TRAIN, cfg.MODEL.ROI_HEADS.NUM_CLASSES = ("own_records",), 1
    with pytest.raises(
        ValueError, match=f"a.png: category_id: got {number}, expected 0 to 0: MODE"
    ):
        build_train_loader(cfg)


def test_a_data_set_without_an_evaluator_gets_coco_s(tmp_path: Path) -> None:
    box = {"bbox": [1, 1, 4, 4], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    size = {"height": 10, "width": 10}
    record = {"file_name": "a.png", "image_id": 1, "annotations": [box], **size}
    DatasetCatalog.register("own_records", lambda: [record])
    MetadataCatalog.get("own_records").thing_classes = ["cell"]
    evaluator = build_evaluator(default_config(), "own_records", str(tmp_path))
    found = {"image_id": 1, "category_id": 0, "bbox": [1, 1, 4, 4], "score": 0.5}
    evaluator._predictions = [{"image_id": 1, "instances": [found]}]
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100.0)


def test_keypoints_need_a_sigma_each() -> None:
    cfg = default_config()
    cfg.MODEL.KEYPOINT_ON, cfg.MODEL.ROI_HEADS.NUM_CLASSES = True, 1
    cfg.DATASETS.TEST = ("keypoints_coco_2017_val",)
    check_registered(cfg)  # COCO's 17
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 4
    for sigmas in ([], [0.05] * 3):
        cfg.TEST.KEYPOINT_OKS_SIGMAS = sigmas
        with pytest.raises(ValueError, match=f"SIGMAS: got {len(sigmas)} .* expected 4"):
            check_registered(cfg)
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.05] * 4
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
