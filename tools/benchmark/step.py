"""Suite ``step``: a distilled training step of R101 -> R18 Faster R-CNN against its parts.

Weights and boxes are random, as the amount of work does not depend on them.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fam_det.modeling  # noqa: F401  registers the models
from fam_det.config import default_config
from fam_det.modeling.distilled_detector import DistilledDetector
from fam_det.modeling.hooks import captured_backbone
from tools.benchmark.measuring import Case, Function

from detectron2 import model_zoo
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

TEACHER = "COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml"
LONG: dict[str, Any] = {"seconds": 15.0, "pairs": (4, 20), "warmup": 1}  # a step takes seconds
IMAGES = {"cpu": (2, 480, 640), "cuda": (8, 800, 1344)}
FULL = {"MID_CHANNELS": 256}
NO_P2 = {"LEVELS": ["p3", "p4", "p5", "p6"]}
LAYERS = {"NAME": "LayerToLayerDistiller"}
BEST = LAYERS | {"LOSS": "spectral_correlation", "FAM.BRANCHES": ["global"]}
# By the row: keys of MODEL.DISTILLER, and the largest ratio of times.
STEPS: dict[str, tuple[dict[str, Any], float]] = {
    "step, recipes (layer to layer, spectral correlation, p3 to p6)": (BEST | NO_P2, 1.08),
    "step, layer to layer, spectral correlation, p2 to p6": (BEST, 1.08),
    "step, full width (256 channels, p2 to p6)": (FULL, 1.20),
    "step, 128 channels, p3 to p6": (NO_P2, 1.08),
    "step, 128 channels, p2 to p6": ({}, 1.08),
    "step, 256 channels, p3 to p6": (NO_P2 | FULL, 1.08),
    "step, layer to layer": (LAYERS, 1.08),
}


def cases(device: str) -> Iterator[Case]:
    """Yields the step with several heads, then inference and the teacher alone."""
    inputs = random_inputs(device)
    for name, (settings, goal) in STEPS.items():
        model = build(settings, device)
        model.load_teacher()
        model.train()
        yield Case(
            name=name,
            project=step(model, inputs, distil=True),
            reference=step(model, inputs, distil=False),
            time_goal=goal,
            **LONG,
        )
    model = build({}, device).eval()
    yield Case(
        name="inference, wrapper over student",
        project=lambda: run_frozen(model, inputs),
        reference=lambda: run_frozen(model.student, inputs),
        time_goal=1.0,
        memory_goal=1.0,
        **LONG,
    )
    plain = copy.deepcopy(model.teacher.backbone)  # before its BatchNorms are folded
    model.load_teacher()
    _, height, width = inputs[0]["image"].shape
    batch = torch.stack([model.teacher._normalise(x["image"]) for x in inputs])
    batch = F.pad(batch, (0, -width % 32, 0, -height % 32))
    yield Case(
        name="teacher forward, over plain float32",
        project=lambda: model.teacher(inputs, (height, width)),
        reference=lambda: run_frozen(plain, batch),
        time_goal=0.9 if device == "cpu" else 0.6,
        **LONG,
    )


def build(settings: dict[str, Any], device: str) -> DistilledDetector:
    """Builds configs/COCO-Detection/faster_rcnn_R_101_to_R_18_FPN.yaml with random weights."""
    torch.manual_seed(0)
    cfg = default_config()
    # Detectron2's file: the benchmark also runs without the project's configs
    cfg.merge_from_file(model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"))
    values = {
        "META_ARCHITECTURE": "DistilledDetector",
        "DEVICE": device,
        "RESNETS.DEPTH": 18,
        "RESNETS.RES2_OUT_CHANNELS": 64,
        "TEACHER.CONFIG": TEACHER,
        "TEACHER.WEIGHTS": "",
        **{f"DISTILLER.{key}": value for key, value in settings.items()},
    }
    cfg.merge_from_list([x for key, value in values.items() for x in (f"MODEL.{key}", value)])
    model: DistilledDetector = build_model(cfg)
    return model


def random_inputs(device: str) -> list[dict[str, Any]]:
    """Draws a batch of noise with eight boxes an image."""
    generator = torch.Generator().manual_seed(0)
    n, height, width = IMAGES[device]
    inputs = []
    for _ in range(n):
        corner = torch.rand(8, 2, generator=generator) * torch.tensor([0.7 * width, 0.7 * height])
        size = 20 + torch.rand(8, 2, generator=generator) * 0.25 * height
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.cat([corner, corner + size], dim=1).to(device))
        instances.gt_classes = torch.randint(80, (8,), generator=generator).to(device)
        image = torch.randint(256, (3, height, width), generator=generator).byte()
        inputs.append({"image": image, "instances": instances})
    return inputs


def step(model: DistilledDetector, inputs: list[dict[str, Any]], *, distil: bool) -> Function:
    """Returns a training step; without ``distil`` the teacher still runs."""
    trained = [p for name, p in model.named_parameters() if distil or "distiller." not in name]
    # A step of length 0 updates the momentum, but not the weights.
    optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9)

    def undistilled() -> dict[str, Tensor]:
        with captured_backbone(model.backbone) as captured:
            student: dict[str, Tensor] = model.student(inputs)
        model.teacher(inputs, captured["padded_size"])
        return student

    def run() -> None:
        torch.manual_seed(0)  # the same proposals are drawn
        optimizer.zero_grad()
        with EventStorage():
            losses: dict[str, Tensor] = model(inputs) if distil else undistilled()
            torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    return run


@torch.no_grad()
def run_frozen(model: Any, inputs: Any) -> Any:
    """Returns the output, without a graph."""
    return model(inputs)
