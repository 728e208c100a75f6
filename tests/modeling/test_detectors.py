"""The wrapper around Detectron2's detectors: one training step and inference of every pair."""

from typing import Any

import pytest
import torch
from torch import nn

import fam_det.modeling  # noqa: F401  registers models and weights
from fam_det.config import default_config
from fam_det.modeling import FrozenTeacher, TimmBackbone
from fam_det.modeling.lazy import build_teacher, distill, group_norm
from tests.modeling.small_detector import images, in_training

from detectron2 import model_zoo
from detectron2.config import CfgNode, instantiate
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import BitMasks, Keypoints
from detectron2.utils.events import EventStorage

FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"
MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
CASCADE = "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml"
KEYPOINT = "COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml"
RETINANET = "COCO-Detection/retinanet_R_50_FPN_3x.yaml"
PANOPTIC = "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml"

P2_TO_P6 = ["p2", "p3", "p4", "p5", "p6"]
P3_TO_P7 = ["p3", "p4", "p5", "p6", "p7"]
P3_TO_P5 = ["p3", "p4", "p5"]
# A timm network instead of the student's R50.
TIMM = {
    FASTER: "build_timm_fpn_backbone",
    MASK: "build_timm_fpn_backbone",
    RETINANET: "build_retinanet_timm_fpn_backbone",
}
# student, teacher, levels, timm network of the student
PAIRS = [
    (FASTER, FASTER, P2_TO_P6, ""),
    (MASK, MASK, P2_TO_P6, ""),
    (CASCADE, CASCADE, P2_TO_P6, ""),
    (KEYPOINT, KEYPOINT, P2_TO_P6, ""),
    (PANOPTIC, PANOPTIC, P2_TO_P6, ""),
    (RETINANET, RETINANET, P3_TO_P7, ""),
    (RETINANET, FASTER, P3_TO_P5, ""),
    (FASTER, RETINANET, P3_TO_P5, ""),
    (MASK, CASCADE, P2_TO_P6, ""),
    (FASTER, PANOPTIC, P2_TO_P6, ""),
    (KEYPOINT, MASK, P2_TO_P6, ""),
    (FASTER, FASTER, P2_TO_P6, "mobilenetv3_small_100"),
    (MASK, MASK, P2_TO_P6, "test_convnext"),
    (RETINANET, RETINANET, P3_TO_P7, "test_efficientnet"),
]


def small(width: int) -> list[Any]:
    """Of a detector: an R50 of an eighth of the width, and thin heads."""
    return [
        *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.WIDTH_PER_GROUP", 8),
        *("MODEL.RESNETS.RES2_OUT_CHANNELS", 32, "MODEL.FPN.OUT_CHANNELS", width),
        *("MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 0),
        *("MODEL.ROI_BOX_HEAD.FC_DIM", 32, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16),
        *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [16], "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32),
        *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 50, "MODEL.RPN.POST_NMS_TOPK_TEST", 20),
        *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32, "MODEL.RETINANET.NUM_CONVS", 1),
    ]


def config(student: str, teacher: str, levels: list[str], network: str) -> CfgNode:
    cfg = default_config()
    cfg.merge_from_file(model_zoo.get_config_file(student))
    cfg.merge_from_list(small(16))
    cfg.MODEL.STUDENT.META_ARCHITECTURE = cfg.MODEL.META_ARCHITECTURE
    cfg.MODEL.META_ARCHITECTURE = "DistilledDetector"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.TEACHER.CONFIG, cfg.MODEL.TEACHER.WEIGHTS = teacher, ""
    cfg.MODEL.TEACHER.OPTS = small(24)
    cfg.MODEL.DISTILLER.MID_CHANNELS = 16
    cfg.MODEL.DISTILLER.LEVELS = levels
    # Random weights find nothing otherwise.
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    if network:
        cfg.MODEL.BACKBONE.NAME = TIMM[student]
        cfg.MODEL.TIMM.NAME = network
    return cfg


def batch() -> list[dict[str, Any]]:
    """Two images with boxes, masks, keypoints and a semantic map."""
    inputs = images((64, 96), (96, 64))
    for x in inputs:
        height, width = x["image"].shape[1:]
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        for mask, box in zip(masks, x["instances"].gt_boxes.tensor.int().tolist(), strict=True):
            mask[box[1] : box[3], box[0] : box[2]] = True
        x["instances"].gt_masks = BitMasks(masks)
        x["instances"].gt_keypoints = Keypoints(torch.full((2, 17, 3), 30.0))
        x["instances"].gt_classes.zero_()  # the only class of the keypoints
        x["sem_seg"] = masks.any(0).long()
    return inputs


def assert_equal_outputs(got: Any, want: Any) -> None:
    """Of inference: instances, semantic maps and panoptic ones, of every image."""
    for ours, theirs in zip(got, want, strict=True):
        assert ours.keys() == theirs.keys()
        fields, expected = ours["instances"].get_fields(), theirs["instances"].get_fields()
        assert fields.keys() == expected.keys()
        assert len(ours["instances"]) > 0
        for name, value in expected.items():
            value, found = (getattr(x, "tensor", x) for x in (value, fields[name]))
            assert torch.equal(found, value), name
        if "sem_seg" in theirs:
            assert torch.equal(ours["sem_seg"], theirs["sem_seg"])
            assert torch.equal(ours["panoptic_seg"][0], theirs["panoptic_seg"][0])


def check_training(model: Any, levels: list[str]) -> None:
    """Losses are finite, and ``loss_distill`` alone reaches the student's backbone."""
    with EventStorage(1019) as storage:  # behind the warm-up, an iteration that is logged
        losses = in_training(model)(batch())
        logged = {k.removeprefix("distiller/loss_") for k in storage.latest()}
    assert all(torch.isfinite(x).all() for x in losses.values()), losses
    assert set(levels) <= logged
    assert not {f"p{i}" for i in range(2, 8)} - set(levels) & logged
    losses["loss_distill"].backward(retain_graph=True)
    bottom_up = getattr(model.backbone, "bottom_up", None) or model.backbone.net
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in bottom_up.parameters())
    assert all(p.grad is None for p in model.teacher.parameters())
    sum(losses.values()).backward()


def check_inference(model: Any, stock: nn.Module) -> None:
    """The stock student loads the state dict, and finds what the wrapper finds."""
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("distiller.")}
    stock.load_state_dict(own)
    inputs = [{k: v for k, v in x.items() if k != "instances"} for x in batch()]
    with torch.no_grad():
        assert_equal_outputs(model.eval()(inputs), stock.eval()(inputs))


def name_of(value: Any) -> str:
    return value.split("/")[-1].removesuffix(".yaml") if isinstance(value, str) else value[0]


@pytest.mark.parametrize(("student", "teacher", "levels", "network"), PAIRS, ids=name_of)
def test_pair(student: str, teacher: str, levels: list[str], network: str) -> None:
    if network:
        pytest.importorskip("timm")
    cfg = config(student, teacher, levels, network)
    torch.manual_seed(0)
    model = build_model(cfg)
    check_training(model, levels)
    check_inference(model, META_ARCH_REGISTRY.get(cfg.MODEL.STUDENT.META_ARCHITECTURE)(cfg))


def test_timm_teacher() -> None:
    pytest.importorskip("timm")
    cfg = config(FASTER, FASTER, P2_TO_P6, "")
    network = ["MODEL.BACKBONE.NAME", TIMM[FASTER], "MODEL.TIMM.NAME", "test_resnet"]
    cfg.MODEL.TEACHER.OPTS = [*cfg.MODEL.TEACHER.OPTS, *network]
    model = build_model(cfg)
    assert isinstance(model.teacher.backbone.bottom_up, TimmBackbone)
    check_training(model, P2_TO_P6)


def fcos(width: int) -> Any:
    """FCOS, which Detectron2 has as a LazyConfig only, as a node: R18 and one thin convolution."""
    node = model_zoo.get_config("common/models/fcos.py").model
    node.backbone.bottom_up.stages.depth, node.backbone.bottom_up.freeze_at = 18, 0
    node.backbone.bottom_up.stages.norm = "BN"
    del node.backbone.bottom_up.stages.stride_in_1x1  # a basic block has no 1x1
    node.backbone.out_channels = node.backbone.top_block.in_channels = width
    node.head.input_shape = [ShapeSpec(channels=width)] * 5
    node.head.conv_dims, node.head.norm = [width], group_norm
    node.test_score_thresh, node.max_detections_per_image = 0.0, 5
    return node


def timm_fcos(width: int) -> Any:
    """The same on a network of timm."""
    pytest.importorskip("timm")
    node, features = fcos(width), ["res3", "res4", "res5"]
    node.backbone.bottom_up = L(TimmBackbone)(
        name="test_efficientnet", norm="BN", out_features=features
    )
    node.backbone.in_features = features
    return node


def retinanet(width: int) -> Any:
    """RetinaNet as a node, as thin."""
    node = model_zoo.get_config("common/models/retinanet.py").model
    node.backbone.bottom_up.stages.depth, node.backbone.bottom_up.freeze_at = 18, 0
    node.backbone.bottom_up.stages.norm = "BN"
    del node.backbone.bottom_up.stages.stride_in_1x1
    node.backbone.out_channels, node.backbone.top_block.in_channels = width, 512
    node.head.input_shape = [ShapeSpec(channels=width)] * 5
    node.head.conv_dims = [width]
    node.test_score_thresh, node.max_detections_per_image = 0.0, 5
    return node


def vitdet(width: int) -> Any:
    """Mask R-CNN on ViTDet's pyramid as a node, a ViT of two thin blocks; not in v0.6."""
    node = model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model
    net = {"img_size": 128, "embed_dim": 32, "depth": 2, "num_heads": 2, "window_size": 4}
    node.backbone.net.update(net, window_block_indexes=[0], drop_path_rate=0.0)
    node.backbone.out_channels, node.backbone.square_pad = width, 128
    node.proposal_generator.head.in_channels = width
    heads = node.roi_heads
    heads.box_head.input_shape = ShapeSpec(channels=width, height=7, width=7)
    heads.box_head.conv_dims, heads.box_head.fc_dims = [16], [32]
    heads.box_predictor.input_shape = ShapeSpec(channels=32)
    heads.mask_head.input_shape = ShapeSpec(channels=width, height=14, width=14)
    heads.mask_head.conv_dims = [16, 16]
    heads.box_predictor.test_score_thresh, heads.box_predictor.test_topk_per_image = 0.0, 5
    return node


def frozen(detector: Any) -> Any:
    """A teacher with random weights, as a node, of another node or a config of the zoo."""
    if isinstance(detector, str):
        opts = small(24)
        return L(build_teacher)(config=detector, weights="", opts=opts, student_format="BGR")
    return L(FrozenTeacher)(
        detector=detector,
        weights="",
        pixel_mean=[103.53, 116.28, 123.675],
        pixel_std=[1.0, 1.0, 1.0],
        input_format="BGR",
        student_format="BGR",
    )


# student, teacher, levels
LAZY_PAIRS: dict[str, tuple[Any, Any, list[str]]] = {
    "fcos_of_fcos": (lambda: fcos(16), lambda: fcos(24), P3_TO_P7),
    "fcos_of_retinanet": (lambda: fcos(16), lambda: RETINANET, P3_TO_P5),
    "fcos_of_faster_rcnn": (lambda: fcos(16), lambda: FASTER, P3_TO_P5),
    "retinanet_of_fcos": (lambda: retinanet(16), lambda: fcos(24), P3_TO_P5),
    "timm_fcos_of_fcos": (lambda: timm_fcos(16), lambda: fcos(24), P3_TO_P7),
    "vitdet_of_vitdet": (lambda: vitdet(16), lambda: vitdet(24), P2_TO_P6),
    "vitdet_of_mask_rcnn": (lambda: vitdet(16), lambda: MASK, P2_TO_P6),
    "fcos_of_vitdet": (lambda: fcos(16), lambda: vitdet(24), P3_TO_P5),
}


@pytest.mark.parametrize("name", LAZY_PAIRS)
def test_lazy_pair(name: str) -> None:
    if "vitdet" in name:
        pytest.importorskip("detectron2.modeling.backbone.vit", reason="not in Detectron2 v0.6")
    make_student, make_teacher, levels = LAZY_PAIRS[name]
    student, options = make_student(), {"levels": levels, "mid_channels": 16}
    node = L(distill)(student=student, teacher=frozen(make_teacher()), distiller=options)
    torch.manual_seed(0)
    model = instantiate(node)
    check_training(model, levels)
    check_inference(model, instantiate(student))


@pytest.mark.parametrize(("square", "size"), [(0, (96, 96)), (128, (128, 128)), (64, (96, 96))])
def test_teacher_gets_the_square_that_its_backbone_wants(
    square: int, size: tuple[int, int]
) -> None:
    """ViTDet's absolute positions are of a padded square; a larger image keeps its own size."""
    model = in_training(build_model(config(RETINANET, FASTER, P3_TO_P5, "")))
    backbone = model.teacher.backbone
    constraints = {"padding_constraints": {"square_size": square}}
    backbone.__class__ = type("SquareFPN", (type(backbone),), constraints)
    seen = []
    backbone.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape[2:]))
    with EventStorage(0):
        losses = model(batch())
    assert seen == [size]
    assert torch.isfinite(losses["loss_distill"])
