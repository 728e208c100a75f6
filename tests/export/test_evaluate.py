"""The AP of a runner that knows the answers, and which layers are computed in 8 bits."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fam_det.export.compare import similarity
from fam_det.export.evaluate import evaluate, register_validation
from fam_det.export.int8 import quantised_nodes
from fam_det.export.source import TrainingImages
from fam_det.training.detection import load_config

from detectron2.config import CfgNode


@pytest.fixture
def cfg(cells: str) -> CfgNode:
    """Images of 64 x 96 that are evaluated at twice their size."""
    sizes = ("INPUT.MIN_SIZE_TEST", "128", "INPUT.MAX_SIZE_TEST", "192")
    words = ("DATASETS.COCO", cells, "DATALOADER.NUM_WORKERS", "0", *sizes)
    return load_config("configs/BloodCells/student_baseline.yaml", [*words])


def test_true_boxes_have_an_ap_of_100(cfg: CfgNode) -> None:
    truth = json.loads(Path(cfg.DATASETS.COCO[0][1]).read_text())["annotations"]
    answers = iter(truth)  # an object an image, in the order of the images

    def run(image: torch.Tensor) -> dict[str, torch.Tensor]:
        assert image.shape == (3, 128, 192)
        assert image.dtype == torch.float32
        answer = next(answers)
        x, y, width, height = answer["bbox"]
        return {
            "pred_boxes": 2.0 * torch.tensor([[x, y, x + width, y + height]]),
            "scores": torch.tensor([0.9]),
            "pred_classes": torch.tensor([answer["category_id"] - 1]),
        }

    ap = evaluate(run, cfg, register_validation(cfg), "true boxes")
    assert ap["AP"] == ap["AP50"] == 100.0


def test_images_to_calibrate_on_are_spread_over_the_training_data(cfg: CfgNode) -> None:
    images = TrainingImages(cfg, 3)
    assert [Path(file).name for file in images.files] == ["0.png", "2.png", "4.png"]
    assert [x.shape for x in images] == 3 * [(3, 128, 192)]
    assert TrainingImages(cfg, 4).files == images.files  # not the first 4 of 6


def test_similarity_counts_clear_objects_that_are_found() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]])
    expected = {
        "pred_boxes": boxes,
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.2]),  # the last is not clear
        "pred_classes": torch.tensor([0, 1, 2, 0]),
    }
    found = {
        # IoU 9 / 11; the right box of another class; IoU 1 / 3
        "pred_boxes": boxes[:3] + torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [5, 0, 5, 0]]),
        "scores": torch.tensor([0.3, 0.3, 0.3]),
        "pred_classes": torch.tensor([0, 0, 2]),
    }
    assert similarity(found, expected) == (3, 1)  # objects, matched


def test_the_first_layer_and_the_heads_last_ones_stay_in_float() -> None:
    names = [
        ("Sub", "/Sub"),
        ("Conv", "/backbone/bottom_up/stem/conv1/Conv"),
        ("Relu", "/backbone/bottom_up/stem/Relu"),
        ("Conv", "/backbone/fpn_output2/Conv"),
        ("Conv", "/proposal_generator/rpn_head/conv/Conv"),
        ("Conv", "/proposal_generator/rpn_head/objectness_logits/Conv"),
        ("Add", "/proposal_generator/Add"),
        ("Add", "/roi_heads/Add"),
        ("Gemm", "/roi_heads/box_head/fc1/Gemm"),
        ("Gemm", "/roi_heads/box_predictor/cls_score/Gemm"),
        ("Conv", "/roi_heads/mask_head/mask_fcn1/Conv"),
        ("Conv", "/roi_heads/mask_head/predictor/Conv"),
    ]
    nodes = [SimpleNamespace(op_type=kind, name=name) for kind, name in names]
    kept = quantised_nodes(nodes)
    assert kept == [names[i][1] for i in (2, 3, 4, 5, 8, 10)]
