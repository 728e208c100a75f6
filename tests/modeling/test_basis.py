"""Heads of the teacher that read thinner maps, in a basis of the teacher's."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fam_det.modeling.basis import find_basis, second_moments
from fam_det.modeling.inherit import first_layers, inherit
from tests.modeling.small_detector import THIN, images, in_training

from detectron2 import model_zoo
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.fcos import FCOSHead
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.proposal_generator import build_proposal_generator
from detectron2.modeling.roi_heads import build_roi_heads
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage

Build = Callable[..., Any]
C, K = 12, 5  # channels of the teacher's maps and of the student's
LEVELS = {f"p{i}": 2**i for i in range(2, 7)}
CONV_FIRST = ["MODEL.ROI_BOX_HEAD.NUM_CONV", "1", "MODEL.ROI_BOX_HEAD.CONV_DIM", "9"]
FAM = (
    *("MODEL.DISTILLER.FAM.HIGH_PASS", "none"),
    *("MODEL.DISTILLER.FAM.BRANCHES", "['global']"),
)


def shapes(width: int) -> dict[str, ShapeSpec]:
    return {name: ShapeSpec(channels=width, stride=stride) for name, stride in LEVELS.items()}


def rcnn(config: str, *opts: str) -> Callable[[int], nn.Module]:
    """Builds the RPN and ROI heads of a config of the zoo, thin inside, on maps of a width."""

    def build_heads(width: int) -> nn.Module:
        cfg = model_zoo.get_config(config)
        cfg.merge_from_list(["MODEL.RPN.CONV_DIMS", [C], "MODEL.ROI_BOX_HEAD.FC_DIM", 16, *opts])
        cfg.MODEL.ROI_MASK_HEAD.CONV_DIM, cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = 8, (8, 8)
        parts = build_proposal_generator(cfg, shapes(width)), build_roi_heads(cfg, shapes(width))
        return nn.ModuleDict(dict(zip(("proposal_generator", "roi_heads"), parts, strict=True)))

    return build_heads


def dense(head: Any) -> Callable[[int], nn.Module]:
    """Builds the head of a dense detector."""

    def build_heads(width: int) -> nn.Module:
        options = {"num_classes": 4, "conv_dims": [8, 8], "norm": ""}
        options |= {"num_anchors": 3} if head is RetinaNetHead else {}
        built = head(input_shape=list(shapes(width).values()), **options)
        return nn.ModuleDict({"head": built})

    return build_heads


def outputs(model: Any, maps: dict[str, Tensor]) -> Iterator[Any]:
    """Yields what every head makes of maps, at fixed boxes."""
    if "head" in model:
        yield model["head"](list(maps.values()))
        return
    yield model["proposal_generator"].rpn_head(list(maps.values()))
    heads, boxes = model["roi_heads"], [Boxes(torch.tensor([[3.0, 5, 90, 70], [8, 8, 24, 30]]))]
    features = [maps[name] for name in heads.box_in_features]
    pooled = heads.box_pooler(features, boxes)
    stages = heads.box_head if isinstance(heads.box_head, nn.ModuleList) else [heads.box_head]
    predictors = heads.box_predictor
    predictors = predictors if isinstance(predictors, nn.ModuleList) else [predictors]
    for head, predictor in zip(stages, predictors, strict=True):
        yield predictor(head(pooled))
    if heads.mask_on:
        yield heads.mask_head.layers(heads.mask_pooler(features, boxes))
    if heads.keypoint_on:
        yield heads.keypoint_head.layers(heads.keypoint_pooler(features, boxes))


def random_maps(width: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = {name: (96 // stride, 128 // stride) for name, stride in LEVELS.items()}
    return {
        name: torch.randn(1, width, *size, generator=generator, dtype=torch.float64)
        for name, size in sizes.items()
    }


@pytest.mark.parametrize(
    "build_heads",
    [
        rcnn("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", *CONV_FIRST),
        rcnn("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"),
        rcnn("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml"),
        rcnn("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml"),
        dense(RetinaNetHead),
        dense(FCOSHead),
    ],
    ids=["faster, conv first", "mask", "keypoint", "cascade", "retinanet", "fcos"],
)
def test_on_maps_in_the_span_the_student_is_the_teacher(
    build_heads: Callable[[int], nn.Module],
) -> None:
    torch.manual_seed(0)
    student, teacher = (build_heads(width).double() for width in (K, C))
    basis = torch.randn(C, K, dtype=torch.float64)
    thin = random_maps(K)
    full = {name: torch.einsum("ck,nkhw->nchw", basis, z) for name, z in thin.items()}
    inherit(student, teacher, list(student), basis=basis)
    flat = [list(flattened(outputs(*pair))) for pair in ((student, thin), (teacher, full))]
    assert len(flat[0]) > 2
    for own, other in zip(*flat, strict=True):  # in cells at the border too: there is no mean
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-10)


def flattened(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        else:
            yield from flattened(value)


def test_no_other_basis_loses_less_of_what_the_layers_read() -> None:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(C, C, generator=generator, dtype=torch.float64)
    maps = mix @ torch.randn(C, 4000, generator=generator, dtype=torch.float64)
    layer = torch.randn(7, C, generator=generator, dtype=torch.float64)
    basis = find_basis(maps @ maps.T / maps.shape[1], [layer], K)
    seen = layer @ maps
    # The best rank-k approximation of what the layer sees, by its singular values alone.
    best = torch.linalg.svdvals(seen)[K:].square().sum()
    read = torch.linalg.qr(layer @ basis).Q
    lost = (seen - read @ (read.T @ seen)).square().sum()
    torch.testing.assert_close(lost, best, rtol=1e-6, atol=0.0)


def test_without_layers_it_is_the_principal_components() -> None:
    maps = torch.randn(C, 500, dtype=torch.float64) * torch.arange(C, 0, -1)[:, None]
    moments = maps @ maps.T / 500
    basis = find_basis(moments, [], K)
    values, vectors = torch.linalg.eigh(moments)
    expected = (vectors * values.sqrt()).flip(1)[:, :K]
    torch.testing.assert_close(basis.abs(), expected.abs(), rtol=1e-6, atol=1e-6)


def test_moments_are_of_the_cells_of_images(build: Build) -> None:
    model = build(*THIN)
    model.teacher.load_weights()
    batches = [images((64, 96), (96, 64)), images((64, 64), seed=1), images((32, 32), seed=2)]
    moments = second_moments(model.teacher, ["p2", "p3"], batches, num_images=3)
    cells = []
    for batch in batches[:2]:
        height, width = (max(x["image"].shape[i] for x in batch) for i in (1, 2))
        maps = model.teacher(batch, (height, width))
        for level, stride in (("p2", 4), ("p3", 8)):
            for x, entry in zip(maps[level], batch, strict=True):
                h, w = (side // stride for side in entry["image"].shape[1:])
                cells += [x[:, i, j].double() for i in range(h) for j in range(w)]
    expected = sum(torch.outer(x, x) for x in cells) / len(cells)
    torch.testing.assert_close(moments, expected, rtol=1e-5, atol=1e-7)


def test_a_thin_student_starts_in_the_basis_of_its_teacher(
    build: Build, storage: EventStorage
) -> None:
    model = build(*THIN, *FAM)
    model.load_teacher([images((64, 96), (96, 64))])
    model.train()
    basis = model.distiller.basis
    assert basis.shape == (24, 16)
    others = model.teacher.detector.state_dict()
    name = "proposal_generator.rpn_head.conv.weight"
    folded = torch.einsum("ochw,ck->okhw", others[name], basis)
    torch.testing.assert_close(model.state_dict()[name], folded)
    x = torch.randn(1, 16, 8, 8)
    for transform in model.distiller.transform.transforms:
        expected = torch.einsum("ck,nkhw->nchw", basis, x)
        torch.testing.assert_close(transform[0](x), expected, rtol=1e-4, atol=1e-5)
    sum(model(images((64, 96))).values()).backward()


@pytest.mark.parametrize("name", ["PKDDistiller", "FGFIDistiller"])
def test_adapters_of_peers_start_there_too(build: Build, name: str) -> None:
    model = build(*THIN, "MODEL.DISTILLER.NAME", name)
    model.load_teacher([images((64, 96))])
    convs = [x for x in model.distiller.modules() if isinstance(x, nn.Conv2d)]
    assert convs
    for conv in convs:
        middle = conv.kernel_size[0] // 2
        assert torch.equal(conv.weight[:, :, middle, middle], model.distiller.basis)


def test_a_checkpoint_keeps_its_basis(build: Build) -> None:
    first = build(*THIN, *FAM)
    first.load_teacher([images((64, 96))])
    resumed = build(*THIN, *FAM)
    resumed.load_state_dict(first.state_dict())
    resumed.load_teacher([images((96, 64), seed=5)])  # other images, which it doesn't look at
    for name, x in first.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], x)


def test_without_images_it_says_what_it_needs(build: Build) -> None:
    with pytest.raises(ValueError, match="load_teacher: got no images"):
        in_training(build(*THIN))


def test_the_rpn_needs_the_teachers_width(build: Build) -> None:
    model = build("MODEL.TEACHER.INHERIT", "['proposal_generator']")
    with pytest.raises(ValueError, match=r"set MODEL.RPN.CONV_DIMS \[24\]"):
        model.load_teacher([images((64, 96))])


def test_equal_widths_have_no_basis(build: Build) -> None:
    same = ("MODEL.RPN.CONV_DIMS", "[-1]", "MODEL.TEACHER.OPTS", "['MODEL.FPN.OUT_CHANNELS', 16]")
    model = build(*THIN, *FAM, *same)
    model.load_teacher()
    assert not hasattr(model.distiller, "basis")
    assert first_layers(model.student, model.teacher.detector, ["roi_heads"], 24, 16) == []
