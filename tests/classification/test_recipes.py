"""The recipe files: each names known networks and methods, and trains on random images."""

from pathlib import Path
from typing import Any

import pytest
import torch

from classification.config import get_cfg
from classification.engine import Trainer, load_config
from classification.models import MODEL_REGISTRY
from fam_det.files.config_file import merge_config

from detectron2.utils.events import EventStorage

CONFIGS = Path(__file__).parent.parent.parent / "configs"
RECIPES = sorted(
    path for folder in ("CIFAR-100", "ImageNet") for path in (CONFIGS / folder).glob("*/*.yaml")
)
METHODS = {"student", "kd", "reviewkd", "fam_layer_to_layer", "fam_reviewkd", "fam_kd"}
PAIRS = 14
# One of each kind of network with each method; the others take minutes.
QUICK = {
    ("resnet56_resnet20", method)
    for method in ("student", "kd", "reviewkd", "fam_layer_to_layer", "fam_reviewkd", "fam_kd")
} | {("wrn_40_2_wrn_16_2", "fam_kd"), ("vgg13_vgg8", "reviewkd"), ("resnet34_resnet18", "kd")}
TRAINED = [
    pytest.param(path, marks=() if (path.parent.name, path.stem) in QUICK else pytest.mark.slow)
    for path in RECIPES
]


def fake_data(folder: Path) -> list[Any]:
    """Two steps of two random images."""
    opts: list[Any] = ["DATASETS.NAME", "fake", "OUTPUT_DIR", str(folder), "SEED", 0]
    opts += ["MODEL.DEVICE", "cpu", "MODEL.TEACHER.WEIGHTS", "", "SOLVER.IMS_PER_BATCH", 2]
    return [*opts, "SOLVER.EPOCHS", 0, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", ()]


def test_every_pair_has_every_method() -> None:
    assert len(RECIPES) == PAIRS * len(METHODS)
    assert {path.stem for path in RECIPES} == METHODS


def test_every_recipe_is_what_its_name_says() -> None:
    weights = {}
    for recipe in RECIPES:
        cfg = get_cfg()
        merge_config(cfg, recipe)
        node = cfg.MODEL.DISTILLER
        student, teacher = cfg.MODEL.STUDENT.NAME, cfg.MODEL.TEACHER.NAME
        short = "_".join(name.split("/")[-1].removesuffix("_100") for name in (teacher, student))
        assert short == recipe.parent.name
        assert recipe.parent.parent.name == "ImageNet" or {student, teacher} <= {*MODEL_REGISTRY}
        fam = node.TRANSFORM == "fam" and node.LOSS == "mse"
        assert (node.NAME, node.FUSION, fam) == METHODS_IN_KEYS[recipe.stem]
        weights[recipe.parent.name, recipe.stem] = node.LOSS_WEIGHT
    assert {key: weights[key] for key in PUBLISHED_WEIGHTS} == PUBLISHED_WEIGHTS


@pytest.mark.parametrize("recipe", TRAINED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recipe_trains_two_steps(recipe: Path, tmp_path: Path) -> None:
    size = 64 if recipe.parent.parent.name == "ImageNet" else 32
    cfg = load_config(str(recipe), [*fake_data(tmp_path), "INPUT.SIZE", size])
    trainer = Trainer(cfg)
    trainer._hooks.clear()  # no evaluation, no files
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    after = list(trainer.model.parameters())
    assert all(torch.isfinite(p).all() for p in after)
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True) if a.dim() == 4)


@pytest.mark.parametrize("name", ["teacher", "student", "distilled"])
def test_a_recipe_for_images_by_class_trains_two_steps(name: str, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    opts = [*fake_data(tmp_path), "MODEL.STUDENT.WEIGHTS", "", "SOLVER.IMS_PER_BATCH", 4]
    cfg = load_config(str(CONFIGS / "ImageFolder" / f"{name}.yaml"), opts)
    trainer = Trainer(cfg)
    trainer._hooks.clear()  # no evaluation, no files
    trainer.train()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


@pytest.mark.parametrize("method", ["kd", "reviewkd", "fam_kd"])
def test_a_step_under_autocast_follows_that_in_float32(method: str, tmp_path: Path) -> None:
    """As Detectron2's AMPTrainer runs it; in bfloat16, which CPUs have."""
    totals = []
    for mixed in (True, False):
        recipe = CONFIGS / "CIFAR-100" / "resnet56_resnet20" / f"{method}.yaml"
        opts = [*fake_data(tmp_path), "INPUT.SIZE", 32, "SOLVER.IMS_PER_BATCH", 16]
        trainer = Trainer(load_config(str(recipe), opts))
        model = trainer.model
        teacher = [] if model.teacher is None else model.teacher.modules()
        for module in (*model.modules(), *teacher):  # running statistics of random weights are none
            module.training = True
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed), EventStorage(0):
            losses = trainer.model(next(trainer._trainer._data_loader_iter))
        total = torch.stack([*losses.values()]).sum()
        total.backward()
        learnt = [p.grad for p in trainer.model.parameters() if p.requires_grad]
        assert all(grad is not None and grad.isfinite().all() for grad in learnt)
        totals.append(total.item())
    wide = method == "kd"  # a divergence between logits after 56 random layers
    assert totals[0] == pytest.approx(totals[1], rel=0.5 if wide else 0.2)


# Supplement A.1 for FAM-KD; ReviewKD's own scripts.
PUBLISHED_WEIGHTS = {
    ("resnet56_resnet20", "fam_kd"): 1.0,
    ("resnet56_resnet20", "reviewkd"): 0.6,
    ("resnet56_resnet20", "kd"): None,  # KD's own
    ("wrn_40_2_wrn_16_2", "fam_kd"): 5.0,
    ("resnet32x4_resnet8x4", "fam_kd"): 20.0,
    ("ResNet50_MobileNetV2", "fam_reviewkd"): 20.0,
    ("resnet34_resnet18", "fam_kd"): 1.0,
    ("resnet50_mobilenetv1", "fam_kd"): 1.0,
}
# MODEL.DISTILLER.NAME and FUSION; whether FAM transforms the maps and the loss is its paper's.
METHODS_IN_KEYS = {
    "student": ("", "cross_attention", True),
    "kd": ("KD", "cross_attention", True),
    "reviewkd": ("KnowledgeReviewDistiller", "abf", False),
    "fam_layer_to_layer": ("LayerToLayerDistiller", "cross_attention", True),
    "fam_reviewkd": ("KnowledgeReviewDistiller", "abf", True),
    "fam_kd": ("KnowledgeReviewDistiller", "cross_attention", True),
}
