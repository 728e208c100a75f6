"""Every shipped config of a detector: it builds its model, and its schedule is the supplement's."""

from pathlib import Path

import pytest

import fam_det.modeling  # noqa: F401  registers models and weights
from fam_det.config import add_distillation_config, default_config
from fam_det.modeling.distilled_detector import DistilledDetector
from tests.plain_config import without_our_keys

from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

OTHERS = {
    "CIFAR-100",
    "ImageNet",
    "ImageFolder",
    "Digits",
    "Studies",
}  # see tests/classification, tests/study
FILES = sorted(
    f
    for f in Path("configs").rglob("*.yaml")
    if not f.name.startswith("Base") and not OTHERS & set(f.parts)
)
COCO_FILES = [f for f in FILES if f.parent.name.startswith("COCO")]
PAIRS = [f for f in COCO_FILES if not f.stem.endswith("_baseline")]
# teacher, student, learning rate of the supplement (RetinaNet: of ReviewKD)
TABLE = {
    "COCO-Detection/faster_rcnn_R_101_to_R_18_FPN": 0.01,
    "COCO-Detection/faster_rcnn_R_101_to_R_50_FPN": 0.01,
    "COCO-Detection/faster_rcnn_R_50_to_MobileNetV2_FPN": 0.01,
    "COCO-Detection/retinanet_R_101_to_R_50_FPN": 0.005,
    "COCO-InstanceSegmentation/mask_rcnn_R_101_to_R_18_FPN": 0.01,
    "COCO-InstanceSegmentation/mask_rcnn_R_101_to_R_50_FPN": 0.01,
    "COCO-InstanceSegmentation/mask_rcnn_R_50_to_MobileNetV2_FPN": 0.01,
}


def load(file: Path) -> CfgNode:
    cfg = default_config()
    cfg.merge_from_file(str(file))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def test_default_keys_leave_plain_configs_alone() -> None:
    cfg, plain = get_cfg(), get_cfg()
    add_distillation_config(cfg)
    assert without_our_keys(cfg) == plain


def test_every_pair_of_the_supplement_is_there() -> None:
    assert {str(f.relative_to("configs").with_suffix("")) for f in PAIRS} == set(TABLE)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_config_builds_its_model(file: Path) -> None:
    cfg = load(file)
    if cfg.MODEL.META_ARCHITECTURE == "DistilledDetector":
        if not cfg.MODEL.TEACHER.CONFIG:  # a run's own teacher, given on the command line
            teacher = next(f for f in FILES if f.parent == file.parent and "teacher" in f.stem)
            cfg.MODEL.TEACHER.CONFIG = str(teacher)
        cfg.MODEL.TEACHER.WEIGHTS = ""
    model = build_model(cfg)
    distilled = cfg.MODEL.META_ARCHITECTURE == "DistilledDetector"
    assert isinstance(model, DistilledDetector) == distilled
    if distilled:
        without_p2 = file.parent.name.startswith("COCO") and "rcnn" in file.stem
        assert len(model.distiller.levels) == (4 if without_p2 else 5)


@pytest.mark.parametrize("file", COCO_FILES, ids=str)
def test_schedule_is_the_supplements(file: Path) -> None:
    cfg = load(file)
    name = str(file.relative_to("configs").with_suffix(""))
    learning_rate = 0.005 if "retinanet" in name else TABLE.get(name, 0.01)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH) == (180_000, 8)
    assert (cfg.SOLVER.STEPS, cfg.SOLVER.GAMMA) == ((120_000, 160_000), 0.1)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM) == (learning_rate, 0.9)
    assert cfg.DATASETS.TRAIN == ("coco_2017_train",)
    assert cfg.DATASETS.TEST == ("coco_2017_val",)


@pytest.mark.parametrize("file", PAIRS, ids=str)
def test_pair_is_its_baseline_plus_distillation(file: Path) -> None:
    cfg = load(file)
    student = file.stem.split("_to_")[1]
    family = "_rcnn_".join(file.stem.split("_rcnn_")[:1])
    family = "retinanet" if "retinanet" in file.stem else f"{family}_rcnn"
    baseline = load(file.with_name(f"{family}_{student}_baseline.yaml"))
    assert cfg.MODEL.META_ARCHITECTURE == "DistilledDetector"
    assert cfg.MODEL.STUDENT.META_ARCHITECTURE == baseline.MODEL.META_ARCHITECTURE
    for key in ("STUDENT", "TEACHER", "DISTILLER", "META_ARCHITECTURE"):
        del cfg.MODEL[key], baseline.MODEL[key]
    assert cfg == baseline


@pytest.mark.parametrize("file", PAIRS, ids=str)
def test_distiller_is_the_best_one_of_the_blood_cells(file: Path) -> None:
    cfg, best = load(file), load(Path("configs/BloodCells/student_fam.yaml"))
    for key in ("NAME", "LOSS", "FAM"):
        assert cfg.MODEL.DISTILLER[key] == best.MODEL.DISTILLER[key]
    heads = ["head"] if "retinanet" in file.stem else ["proposal_generator", "roi_heads"]
    assert cfg.MODEL.TEACHER.INHERIT == [*heads, "backbone.fpn_output*"]


@pytest.mark.parametrize("file", PAIRS, ids=str)
def test_teacher_is_the_zoos_3x_model(file: Path) -> None:
    name = load(file).MODEL.TEACHER.CONFIG
    assert name.endswith("_FPN_3x.yaml")
    assert model_zoo.get_checkpoint_url(name).endswith(".pkl")
    teacher_depth = int(file.stem.split("_R_")[1].split("_")[0])
    assert model_zoo.get_config(name).MODEL.RESNETS.DEPTH == teacher_depth


def test_retinanet_anchors_and_labels_are_the_zoos() -> None:
    cfg = load(Path("configs/COCO-Detection/retinanet_R_50_FPN_baseline.yaml"))
    zoo = model_zoo.get_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    assert cfg.MODEL.ANCHOR_GENERATOR == zoo.MODEL.ANCHOR_GENERATOR
    assert cfg.MODEL.RETINANET == zoo.MODEL.RETINANET


def test_rgb_students_get_rgb_mean_and_std() -> None:
    for file in COCO_FILES:
        cfg = load(file)
        if cfg.INPUT.FORMAT == "RGB":
            assert cfg.MODEL.PIXEL_MEAN == [123.675, 116.280, 103.530]
            assert cfg.MODEL.PIXEL_STD == [58.395, 57.120, 57.375]
        else:
            assert cfg.MODEL.PIXEL_MEAN == [103.530, 116.280, 123.675]
