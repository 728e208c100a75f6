"""Training and evaluation of classifiers with Detectron2's trainer and hooks."""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from classification.build import build_classifier
from classification.config import get_cfg, resolve_schedule
from classification.data import Batch, build_test_loader, build_train_loader, load_splits
from classification.distilled_classifier import DistilledClassifier
from fam_det.files.config_file import merge_config
from fam_det.training.trainer import ResumableTrainer, check_device

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm

logger = logging.getLogger(__name__)
METRIC = "accuracy/top1"
TOP = (1, 5)


class Trainer(ResumableTrainer):
    """Detectron2's default trainer for classifiers."""

    @classmethod
    def main_metrics(cls, cfg: CfgNode) -> Sequence[str]:
        """Returns the accuracy."""
        return [METRIC]

    @classmethod
    def build_model(cls, cfg: CfgNode) -> DistilledClassifier:
        """Builds student, teacher and distiller."""
        return build_classifier(cfg)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Returns endless batches, with a random seed unless the config has one."""
        train = load_splits(cfg).train
        logger.info("Training images: %d of %d classes", len(train), len(train.classes))
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        return build_train_loader(cfg, seed)

    @classmethod
    def parts_to_load(cls, cfg: CfgNode, model: nn.Module) -> Sequence[str]:
        """Returns none without ``MODEL.WEIGHTS``: ``MODEL.STUDENT`` may have weights itself."""
        return super().parts_to_load(cfg, model) if cfg.MODEL.WEIGHTS else ()

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, Any]:
        """Returns the accuracy on the held-out images, or on the test set if there are none."""
        results = inference_on_dataset(model, build_test_loader(cfg), AccuracyEvaluator())
        if comm.is_main_process():
            print_csv_format(OrderedDict(results))
        return OrderedDict(results)


class AccuracyEvaluator(DatasetEvaluator):
    """Top-k accuracy in percent for k in ``TOP``; 100 with at most k classes."""

    def reset(self) -> None:
        """Forgets the images so far."""
        self._images = 0
        self._hits = torch.zeros(len(TOP), dtype=torch.int64)

    def process(self, inputs: Batch, outputs: Tensor) -> None:
        """Counts a batch: ``outputs`` are logits (N, K)."""
        ranked = outputs.topk(min(max(TOP), outputs.shape[1]), dim=1).indices
        hits = ranked == inputs.labels[:, None]
        self._hits += torch.stack([hits[:, :k].sum() for k in TOP]).cpu()
        self._images += len(inputs.labels)

    def evaluate(self) -> dict[str, Any] | None:
        """Returns ``{"accuracy": {"top1": percent, "top5": percent}}`` over all processes."""
        parts = comm.gather((self._images, self._hits))
        if not comm.is_main_process():
            return None
        images = sum(part[0] for part in parts)
        hits = sum(part[1] for part in parts).tolist()
        return {
            "accuracy": {f"top{k}": 100.0 * hit / images for k, hit in zip(TOP, hits, strict=True)}
        }


def load_config(config_file: str, opts: list[str], *, allow_unsafe: bool = False) -> CfgNode:
    """Returns a frozen config of a file and KEY VALUE pairs, its schedule in iterations.

    Raises:
        ValueError: a file that is invalid or would run code, a missing device or data set, or an
            impossible value.
    """
    cfg = get_cfg()
    merge_config(cfg, config_file, opts, allow_unsafe=allow_unsafe)
    check_device(cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED)
    train = load_splits(cfg).train
    if len(train.classes) != cfg.MODEL.NUM_CLASSES:
        raise ValueError(
            f"MODEL.NUM_CLASSES: got {cfg.MODEL.NUM_CLASSES}, "
            f"but DATASETS.NAME {cfg.DATASETS.NAME!r} has {len(train.classes)} classes"
        )
    resolve_schedule(cfg, len(train))
    cfg.freeze()
    return cfg
