"""Evaluates exported files on a data set as a training evaluates its detector."""

import contextlib
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from fam_det.data import register_coco_datasets
from fam_det.export.compare import Runner
from fam_det.export.media import progress
from fam_det.training.detection import Trainer

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances


class RunnerDetector(nn.Module):
    """A Detectron2 detector in eval mode around a runner, such as that of an exported file."""

    def __init__(self, run: Runner) -> None:
        super().__init__()
        self.run = run

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Returns ``instances`` in pixels of each input's ``height`` and ``width``."""
        outputs = []
        for inputs in batched_inputs:
            fields = self.run(inputs["image"].float())
            height, width = inputs["image"].shape[1:]
            boxes = Boxes(fields["pred_boxes"])
            instances = Instances((height, width), **fields | {"pred_boxes": boxes})
            size = inputs.get("height", height), inputs.get("width", width)
            outputs.append({"instances": detector_postprocess(instances, *size)})
        return outputs


def register_validation(cfg: CfgNode) -> str:
    """Registers the data sets of a config, and returns the first of ``DATASETS.TEST``.

    Raises:
        ValueError: ``DATASETS.TEST`` is empty, or a data set is invalid.
    """
    if not cfg.DATASETS.TEST:
        raise ValueError("--evaluate: DATASETS.TEST is empty, expected the name of a data set")
    register_coco_datasets(cfg, tested=cfg.DATASETS.TEST)
    return cfg.DATASETS.TEST[0]


@torch.no_grad()
def evaluate(run: Runner, cfg: CfgNode, dataset: str, title: str) -> dict[str, float]:
    """Returns the box metrics of COCO, "AP", "AP50", ..., on a registered data set, in percent.

    ``INPUT`` of ``cfg`` describes the images that the runner expects; ``title`` is for the bar.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        evaluator = Trainer.build_evaluator(cfg, dataset, folder)
        loader = Trainer.build_test_loader(cfg, dataset)
        return run_evaluator(evaluator, progress(loader, title), RunnerDetector(run))["bbox"]


def run_evaluator(
    evaluator: DatasetEvaluator, batches: Iterable[Any], model: Callable[[Any], Any]
) -> Any:
    """Returns the results of an evaluator, without what it prints."""
    evaluator.reset()
    with contextlib.redirect_stdout(None):
        for batch in batches:
            evaluator.process(batch, model(batch))
        return evaluator.evaluate()
