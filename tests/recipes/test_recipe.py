"""Whole configs for pairs of teacher and student, and the lines that explain them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fam_det.config import default_config
from fam_det.data.audit import kept_warnings
from fam_det.files.config_file import merge_config
from fam_det.recipes.data import CocoData
from fam_det.recipes.recipe import Recipe, Request, derive
from fam_det.training.detection import load_config
from tests.recipes.conftest import POLYGON

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"
MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
CASCADE = "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml"
KEYPOINT = "COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml"
RETINANET = "COCO-Detection/retinanet_R_50_FPN_3x.yaml"
FCOS = "COCO-Detection/fcos_R_50_FPN_1x.py"
WITHOUT_GROUP_NORM = ["MODEL.TEACHER.OPTS", "['model.head.norm=']"]  # v0.6 cannot build FCOS's
P2_TO_P6 = ["p2", "p3", "p4", "p5", "p6"]
P3_TO_P6 = P2_TO_P6[1:]
P3_TO_P7 = ["p3", "p4", "p5", "p6", "p7"]
HEADS = ["proposal_generator", "roi_heads", "backbone.fpn_output*"]

Coco = Callable[..., CocoData]


# The zoo's teachers with a smaller backbone and box head: quicker to build.
THIN = [
    "MODEL.TEACHER.OPTS",
    "['MODEL.RESNETS.DEPTH', 18, 'MODEL.RESNETS.RES2_OUT_CHANNELS', 64, "
    "'MODEL.ROI_BOX_HEAD.FC_DIM', 64]",
]


def request(data: CocoData, teacher: str, student: str = "resnet18", **other: Any) -> Recipe:
    return derive(Request(teacher, student, train=data, val=data, output="output/x", **other))


def request_zoo(data: CocoData, teacher: str, **other: Any) -> Recipe:
    return request(data, teacher, options=THIN, **other)


@pytest.fixture
def teacher(tmp_path: Path, coco: Coco) -> Path:
    """A small teacher's config with its data, of the classes "a", "b", "c"."""
    data = coco("a", "b", "c")
    path = tmp_path / "teacher" / "config.yaml"
    path.parent.mkdir()
    base = {
        "_BASE_": str(Path("configs/BloodCells/teacher_R_18.yaml").resolve()),
        "DATASETS": {"COCO": [["bccd_train", data.annotations, data.images]]},
    }
    path.write_text(yaml.safe_dump(base))
    return path


def distils_as(cfg: CfgNode, name: str) -> bool:
    """Whether the distiller is the one of a config of the blood cells."""
    best = load_config(f"configs/BloodCells/{name}.yaml", [])
    mine, other = (c.MODEL.DISTILLER for c in (cfg, best))
    return all(mine[key] == other[key] for key in ("NAME", "LOSS", "FAM"))


@pytest.mark.parametrize(
    ("name", "architecture", "levels", "masks", "learning_rate"),
    [
        (MASK, "GeneralizedRCNN", P3_TO_P6, True, 0.01),
        (CASCADE, "GeneralizedRCNN", P3_TO_P6, True, 0.01),
        (KEYPOINT, "GeneralizedRCNN", P3_TO_P6, False, 0.01),
        (RETINANET, "RetinaNet", P3_TO_P7, False, 0.005),
    ],
)
def test_zoo_teacher(
    name: str, architecture: str, levels: list[str], masks: bool, learning_rate: float, coco: Coco
) -> None:
    recipe = request_zoo(coco("a", "b", segmentation=POLYGON), name)
    cfg = recipe.cfg
    assert cfg.MODEL.META_ARCHITECTURE == "DistilledDetector"
    assert cfg.MODEL.STUDENT.META_ARCHITECTURE == architecture
    assert cfg.MODEL.DISTILLER.LEVELS == levels
    assert (cfg.MODEL.MASK_ON, cfg.MODEL.KEYPOINT_ON) == (masks, False)
    node = cfg.MODEL.RETINANET if architecture == "RetinaNet" else cfg.MODEL.ROI_HEADS
    assert node.NUM_CLASSES == 2
    assert cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG is False
    assert (cfg.MODEL.TEACHER.CONFIG, cfg.MODEL.TEACHER.WEIGHTS) == (name, "auto")
    assert cfg.MODEL.TEACHER.INHERIT == []
    assert distils_as(cfg, "student_global_branch")
    assert learning_rate == cfg.SOLVER.BASE_LR
    assert cfg.SOLVER.MAX_ITER == 1288  # 180000 sqrt(6 / 117266) = 1287.5
    assert cfg.SOLVER.WARMUP_ITERS == cfg.MODEL.DISTILLER.WARMUP_ITERS == 128
    assert cfg.INPUT.MIN_SIZE_TRAIN == (640, 672, 704, 736, 768, 800)
    detected = 1 if name == KEYPOINT else 80
    assert recipe.notes[-1] == (
        f"the teacher detects {detected} classes, the data has 2: distilling FPN features only"
    )


def test_teacher_in_python_shares_the_levels_of_its_backbone(coco: Coco) -> None:
    cfg = request(coco("a"), FCOS, teacher_weights="none", options=WITHOUT_GROUP_NORM).cfg
    assert cfg.MODEL.STUDENT.META_ARCHITECTURE == "RetinaNet"
    assert cfg.MODEL.DISTILLER.LEVELS == ["p3", "p4", "p5"]  # its p6 is made of p5, not of res5
    assert cfg.MODEL.TEACHER.WEIGHTS == ""


def test_masks_need_a_teacher_and_data_that_have_them(coco: Coco) -> None:
    recipe = request_zoo(coco("a"), MASK)
    assert recipe.cfg.MODEL.MASK_ON is False
    assert recipe.notes[0] == f"student Faster R-CNN resnet18, teacher {MASK}"
    recipe = request_zoo(coco("a", segmentation={"size": [64, 96], "counts": [6144]}), MASK)
    assert (recipe.cfg.MODEL.MASK_ON, recipe.cfg.INPUT.MASK_FORMAT) == (True, "bitmask")
    assert recipe.notes[0] == f"student Mask R-CNN resnet18, teacher {MASK}"


def test_same_classes_inherit_the_heads(teacher: Path, coco: Coco) -> None:
    recipe = request(coco("a", "b", "c"), str(teacher), teacher_weights="none")
    model = recipe.cfg.MODEL
    assert model.TEACHER.INHERIT == HEADS
    assert model.DISTILLER.LEVELS == P2_TO_P6  # the heads read p2
    assert distils_as(recipe.cfg, "student_fam")
    # Its own sizes, without which the weights would not fit.
    assert (model.FPN.OUT_CHANNELS, model.ROI_BOX_HEAD.FC_DIM) == (64, 256)
    assert model.ANCHOR_GENERATOR.SIZES == [[16], [32], [64], [128], [256]]
    assert (recipe.cfg.INPUT.MIN_SIZE_TEST, recipe.cfg.INPUT.MAX_SIZE_TEST) == (192, 256)
    assert recipe.notes[-1] == (
        "teacher and data have the same 3 classes: the student starts with the teacher's heads"
    )
    own = {"teacher_weights": "none", "student_weights": "torchvision://resnet18"}
    assert request(coco("a", "b", "c"), str(teacher), **own).notes[-1] == (
        "heads in --student-weights take precedence over the teacher's"
    )


def test_distiller_is_that_of_the_coco_recipes(teacher: Path, coco: Coco) -> None:
    expected = default_config()
    merge_config(expected, "configs/Base-FAM.yaml")
    cfg = request(coco("a", "b", "c"), str(teacher), teacher_weights="none").cfg
    for key in ("NAME", "LOSS", "LOSS_WEIGHT", "FAM"):
        assert cfg.MODEL.DISTILLER[key] == expected.MODEL.DISTILLER[key]


@pytest.mark.parametrize("name", [FASTER, RETINANET])
def test_names_of_the_zoo_teachers_are_those_of_coco(name: str, coco: Coco) -> None:
    names = MetadataCatalog.get("coco_2017_train").thing_classes
    inherited = request_zoo(coco(*names), name).cfg.MODEL.TEACHER.INHERIT
    assert inherited == (HEADS if name == FASTER else ["head", "backbone.fpn_output*"])


def test_heads_stay_where_something_differs(teacher: Path, coco: Coco) -> None:
    random, name = {"teacher_weights": "none"}, str(teacher)

    def line(names: str, **other: Any) -> str:
        recipe = request(coco(*names), name, **random, **other)
        assert recipe.cfg.MODEL.TEACHER.INHERIT == []
        return recipe.notes[-1]

    assert line("abc", inherit_heads=False).startswith("--no-inherit-heads: distilling FPN")
    config = yaml.safe_load(teacher.read_text())
    config["DATASETS"] = {"TRAIN": ["registered_elsewhere"]}
    teacher.write_text(yaml.safe_dump(config))
    assert line("abc").startswith("the names of the teacher's 3 classes are not known (if its")
    config["DATASETS"] = {"TRAIN": ["own"], "COCO": [["own", "gone.json", "images"]]}
    teacher.write_text(yaml.safe_dump(config))
    assert line("abc").startswith("the names of the teacher's 3 classes are not known (if its")
    warning = "--teacher: its training data gone.json cannot"
    assert any(x.startswith(warning) for x in kept_warnings())
    config["DATASETS"] = {"TRAIN": ["cityscapes_fine_instance_seg_train"]}
    config["MODEL"] = {"ROI_HEADS": {"NUM_CLASSES": 8}}
    teacher.write_text(yaml.safe_dump(config))
    assert line("abcdefgh").startswith(
        "the teacher's classes are 8 (person, rider, car, ...), those of the data 8 (a, b, c, ...)"
    )


def test_a_thinner_student_has_heads_of_the_teachers_inner_widths(
    teacher: Path, coco: Coco
) -> None:
    thin = ["MODEL.FPN.OUT_CHANNELS", "16"]
    recipe = request(coco("a", "b", "c"), str(teacher), teacher_weights="none", options=thin)
    model = recipe.cfg.MODEL
    assert model.TEACHER.INHERIT == ["proposal_generator", "roi_heads"]
    assert (model.RPN.CONV_DIMS, model.DISTILLER.FAM.INIT) == ([64], "identity")
    own_rpn = [*thin, "MODEL.RPN.CONV_DIMS", "[32]"]
    recipe = request(coco("a", "b", "c"), str(teacher), teacher_weights="none", options=own_rpn)
    assert recipe.cfg.MODEL.TEACHER.INHERIT == ["roi_heads"]
    assert recipe.notes[-1].startswith("not inherited: proposal_generator.rpn_head.conv.weight has")


def test_classes_that_the_teacher_knows_are_taken_by_name(coco: Coco) -> None:
    recipe = request_zoo(coco("dog", "bolt", "person"), FASTER)
    assert recipe.cfg.MODEL.TEACHER.CLASSES == [16, -1, 0]
    assert recipe.cfg.MODEL.TEACHER.INHERIT == HEADS
    assert recipe.notes[-1] == (
        "classes that the teacher knows: 2 (dog, person): the student starts with the teacher's "
        "heads; new: 1 (bolt)"
    )


def test_insisting_on_heads_needs_no_names_but_one_number(teacher: Path, coco: Coco) -> None:
    data = coco("x", "y", "z")
    insist: dict[str, Any] = {"teacher_weights": "none", "inherit_heads": True}
    assert request(data, str(teacher), **insist).cfg.MODEL.TEACHER.INHERIT == HEADS
    with pytest.raises(ValueError, match="--inherit-heads: the teacher detects 80 classes, the d"):
        request_zoo(data, FASTER, inherit_heads=True)
    eighty = coco(*map(str, range(80)))
    with pytest.raises(ValueError, match="--inherit-heads: the teacher has no roi_heads.box_head"):
        request_zoo(eighty, CASCADE, inherit_heads=True)


def test_saved_config_is_the_derived_one(teacher: Path, coco: Coco, tmp_path: Path) -> None:
    options = ["SOLVER.STEPS", "(5,)", "MODEL.FPN.OUT_CHANNELS", "32", "SEED", "3"]
    recipe = request(
        coco("a", "b\n", "c"),
        str(teacher),
        "mobilenet_v2",
        teacher_weights="none",
        schedule="0.1x",
        options=options,
    )
    file = tmp_path / "saved.yaml"
    file.write_text(recipe.to_yaml())
    assert load_config(str(file), []) == recipe.cfg
    text = file.read_text()
    assert "OUT_CHANNELS: 32  # given" in text
    assert "NUM_CLASSES: 3  # classes: 3 (a, b , c)" in text
    assert recipe.cfg.SOLVER.STEPS == (5,)


def test_checkpoint_of_the_teacher(teacher: Path, coco: Coco) -> None:
    data, name = coco("a"), str(teacher)
    with pytest.raises(ValueError, match="--teacher-weights: missing, and there is no model_final"):
        request(data, name)
    with pytest.raises(ValueError, match=r"--teacher-weights: no.pth does not exist"):
        request(data, name, teacher_weights="no.pth")
    beside = teacher.with_name("model_final.pth")
    beside.touch()
    assert str(beside) == request(data, name).cfg.MODEL.TEACHER.WEIGHTS
    teacher.rename(config := teacher.with_name("config.yaml"))
    node = request(data, str(teacher.parent)).cfg.MODEL.TEACHER  # the folder of its run
    assert (str(config), str(beside)) == (node.CONFIG, node.WEIGHTS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "faster_rcnn_R101_FPN_3x",
            r"neither a file nor .*; close names: .*COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml",
        ),
        ("COCO-Detection/rpn_R_50_FPN_1x.yaml", "is a ProposalNetwork, expected a Faster, Mask"),
        ("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", "has no FPN, expected one, such as"),
    ],
)
def test_wrong_teacher_is_named(name: str, message: str, coco: Coco) -> None:
    with pytest.raises(ValueError, match=f"--teacher: {name}: .*{message}"):
        request(coco("a"), name)


@pytest.mark.parametrize(
    ("suffix", "text", "message"),
    [
        (".yaml", "MODEL: [1, 2", "expected ','"),
        (".py", "import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        (".py", "x = {}", "defines .*, expected 'model'"),
    ],
)
def test_teacher_that_cannot_be_read_is_named(
    suffix: str, text: str, message: str, coco: Coco, tmp_path: Path
) -> None:
    file = tmp_path / f"config{suffix}"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"--teacher: {file}: (.|\n)*{message}"):
        request(coco("a"), str(file), teacher_weights="none")


def test_student_that_cannot_be_built_is_named(teacher: Path, coco: Coco) -> None:
    wrong = {"teacher_weights": "none", "options": ["MODEL.FPN.FUSE_TYPE", "max"]}
    with pytest.raises(ValueError, match="--student: resnet18: cannot be built: AssertionError"):
        request(coco("a"), str(teacher), **wrong)
