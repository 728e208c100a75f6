"""Top-1 and top-5 accuracy, as a Detectron2 evaluator."""

from typing import Any

import torch
from torch import Tensor

from classification.data import Batch

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

TOP = (1, 5)


class AccuracyEvaluator(DatasetEvaluator):
    """Share of images whose label is among the k highest logits, in percent, for k in ``TOP``.

    With fewer than k classes every image counts.
    """

    def reset(self) -> None:
        """Start anew."""
        self._images = 0
        self._hits = torch.zeros(len(TOP), dtype=torch.int64)

    def process(self, inputs: Batch, outputs: Tensor) -> None:
        """Count a batch: ``outputs`` are logits (N, K)."""
        ranked = outputs.topk(min(max(TOP), outputs.shape[1]), dim=1).indices
        hits = ranked == inputs.labels[:, None]
        self._hits += torch.stack([hits[:, :k].sum() for k in TOP]).cpu()
        self._images += len(inputs.labels)

    def evaluate(self) -> dict[str, Any] | None:
        """``{"accuracy": {"top1": percent, "top5": percent}}`` over all processes.

        Raises:
            ValueError: no images.
        """
        parts = comm.gather((self._images, self._hits))
        if not comm.is_main_process():
            return None
        images = sum(part[0] for part in parts)
        if images == 0:
            raise ValueError("DATASETS.NAME: no images to evaluate on")
        hits = sum(part[1] for part in parts).tolist()
        return {
            "accuracy": {f"top{k}": 100.0 * hit / images for k, hit in zip(TOP, hits, strict=True)}
        }
