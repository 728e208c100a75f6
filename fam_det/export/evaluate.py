"""The AP of whatever finds objects in an image, as a training evaluates its detector."""

import contextlib
import tempfile
from typing import Any

import torch
from torch import nn

from fam_det.data import register_coco_datasets
from fam_det.export.compare import Runner
from fam_det.export.media import progress
from fam_det.training.detection import Trainer

from detectron2.config import CfgNode
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances


class RunnerDetector(nn.Module):
    """A runner, such as that of an exported file, as a Detectron2 detector in eval mode."""

    def __init__(self, run: Runner) -> None:
        super().__init__()
        self.run = run

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Returns ``instances`` in pixels of each input's ``height`` and ``width``."""
        outputs = []
        for inputs in batched_inputs:
            fields = self.run(inputs["image"].float())
            height, width = inputs["image"].shape[1:]
            boxes = {"pred_boxes": Boxes(fields["pred_boxes"])}
            found = Instances((height, width), **fields | boxes)
            size = inputs.get("height", height), inputs.get("width", width)
            outputs.append({"instances": detector_postprocess(found, *size)})
        return outputs


def register_validation(cfg: CfgNode) -> str:
    """Registers the data sets of a config, and returns the first to evaluate on.

    Raises:
        ValueError: none, or a data set that is not as it should be.
    """
    if not cfg.DATASETS.TEST:
        raise ValueError("--evaluate: DATASETS.TEST is empty, expected the name of a data set")
    register_coco_datasets(cfg, tested=cfg.DATASETS.TEST)
    return cfg.DATASETS.TEST[0]


@torch.no_grad()
def evaluate(run: Runner, cfg: CfgNode, dataset: str, title: str) -> dict[str, float]:
    """Returns "AP", "AP50" and others of boxes on a registered data set, in percent.

    ``INPUT`` of ``cfg`` says how what finds objects expects images; ``title`` is of the progress.
    """
    detector = RunnerDetector(run)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        evaluator = Trainer.build_evaluator(cfg, dataset, folder)
        evaluator.reset()
        loader = Trainer.build_test_loader(cfg, dataset)
        for inputs in progress(loader, title):
            evaluator.process(inputs, detector(inputs))
        results = evaluator.evaluate()
    return results["bbox"]
