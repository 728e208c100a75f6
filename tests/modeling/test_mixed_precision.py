"""Training under autocast, as Detectron2's AMPTrainer runs a step; in bfloat16, which CPUs have."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fam_det.training.detection import load_config
from tests.modeling.small_detector import images, in_training, small_config

from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

FILES = [*Path("configs").glob("COCO-*/*_to_*.yaml"), Path("configs/Demo/student_fam.yaml")]
DEMO_TEACHER = ["MODEL.TEACHER.CONFIG", "configs/Demo/teacher.yaml", "MODEL.TEACHER.OPTS", "[]"]
STEPS = 50
# FrozenBN keeps the maps of random weights near 1
TEACHER = "['MODEL.FPN.OUT_CHANNELS', 24, 'MODEL.RESNETS.NORM', 'FrozenBN', 'MODEL.FPN.NORM', '']"
METHODS = {
    "FAM-KD": (),
    "FAM + ReviewKD, banded": (
        *("MODEL.DISTILLER.FUSION", "abf"),
        *("MODEL.DISTILLER.FAM.FILTER", "banded"),
    ),
    "layer to layer": ("MODEL.DISTILLER.NAME", "LayerToLayerDistiller"),
}


def losses_of(model: Any, batch: list[dict[str, Any]], *, mixed: bool) -> dict[str, Any]:
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        losses: dict[str, Any] = model(batch)
    return losses


@pytest.mark.parametrize("file", sorted(FILES), ids=lambda f: f.stem)
def test_every_distilled_recipe_takes_a_step(file: Path) -> None:
    demo = DEMO_TEACHER if file.parent.name == "Demo" else []
    cfg = load_config(
        str(file),
        [
            *("MODEL.DEVICE", "cpu", "MODEL.TEACHER.WEIGHTS", ""),
            *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "20", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "8"),
            *("MODEL.MASK_ON", "False"),  # the batch has boxes only
            *("MODEL.RESNETS.NORM", "BN"),  # FrozenBN of random weights normalises nothing
            *demo,
        ],
    )
    torch.manual_seed(0)
    model = in_training(build_model(cfg))
    with EventStorage(0):
        # 72 pixels: PyTorch 2.14 leaves parts of a bfloat16 gradient on a 1 x 1 map unset
        losses = losses_of(model, images((72, 72)), mixed=True)
    assert "loss_distill" in losses
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not name.startswith("teacher."):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def curve(opts: tuple[str, ...], *, mixed: bool) -> torch.Tensor:
    """The distillation loss over some steps of its own training."""
    torch.manual_seed(0)
    weight = ("MODEL.DISTILLER.WARMUP_ITERS", "0", "MODEL.DISTILLER.LOSS_WEIGHT", "1.0")
    model = in_training(build_model(small_config(*opts, *weight, "MODEL.TEACHER.OPTS", TEACHER)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9)
    values = []
    for step in range(STEPS):
        with EventStorage(step):
            loss = losses_of(model, images((64, 96), seed=step % 4), mixed=mixed)["loss_distill"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return torch.tensor(values)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_loss_curves_agree_with_those_in_float32(method: str) -> None:
    mixed, full = (curve(METHODS[method], mixed=m) for m in (True, False))
    assert full[-4:].mean() < 0.8 * full[:4].mean()  # it learns
    apart = (mixed / full - 1).abs()
    assert apart.max() < 0.1
    assert apart.mean() < 0.03
