"""Variational information distillation.

Legend: N batch, C channels, H and W map size.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classification.distillers.base import DISTILLER_REGISTRY, FeatureShapes
from classification.distillers.maps import map_pairs, match_sizes
from classification.distillers.peer import PeerDistiller, check_option
from classification.distillers.stages import StagePairs
from classification.distillers.torchdistill_losses import PAIR, LibraryLoss
from classification.models import Features

from detectron2.config import CfgNode, configurable

# The smallest variance.
EPS = 1e-5


@DISTILLER_REGISTRY.register()
class VID(PeerDistiller):
    """Variational information distillation, Ahn et al., CVPR 2019, arXiv 1904.05835.

    The teacher's map is taken for a Gaussian whose mean a regressor makes of the student's map and
    whose variance is learned for each channel; the loss is the mean of
    ((mean - map)^2 / variance + log variance) / 2, so it can be negative. The larger of two maps is
    first average-pooled to the smaller one's size. Compares every stage but the stem.

    torchdistill's loss, with RepDistiller's regressor. mdistiller and FAM-KD leave the variances
    out of the optimiser, so that they stay 5; here they are trained, as in the paper.

    Args:
        pairs: the stages.
        student_channels: C of the student's map of each.
        teacher_channels: C of the teacher's map of each.
        init_variance: at the start, above 1e-5.

    Raises:
        ValueError: an initial variance that is not above 1e-5.
    """

    @configurable
    def __init__(
        self,
        *,
        pairs: StagePairs,
        student_channels: list[int],
        teacher_channels: list[int],
        init_variance: float,
    ) -> None:
        super().__init__()
        check_option("VID.INIT_VARIANCE", init_variance, init_variance > EPS, f"more than {EPS}")
        self.pairs = pairs
        self.regressors = nn.ModuleList(
            GaussianRegressor(c_in, c_out, init_variance)
            for c_in, c_out in zip(student_channels, teacher_channels, strict=True)
        )
        self.loss = LibraryLoss("VIDLoss", feature_pairs={"stage": PAIR})

    @classmethod
    def from_config(
        cls, cfg: CfgNode, student: FeatureShapes, teacher: FeatureShapes, labels: Tensor
    ) -> dict[str, Any]:
        """Arguments of ``__init__``."""
        pairs = map_pairs(cfg.MODEL.DISTILLER, student, teacher)
        return {
            "pairs": pairs,
            "student_channels": [c for c, _, _ in pairs.shapes(student, teacher=False)],
            "teacher_channels": [c for c, _, _ in pairs.shapes(teacher, teacher=True)],
            "init_variance": cfg.MODEL.DISTILLER.VID.INIT_VARIANCE,
        }

    def terms(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """The negative log likelihood of each stage, without its constant."""
        losses = {}
        for name, regressor, x, y in zip(
            self.pairs.names,
            self.regressors,
            self.pairs.student_maps(student),
            self.pairs.teacher_maps(teacher),
            strict=True,
        ):
            x, y = match_sizes(x, y)
            losses[name] = self.loss(regressor(x), y)
        return losses


class GaussianRegressor(nn.Module):
    """Mean and variance of the teacher's map, given the student's.

    Args:
        in_channels: C of the student's map.
        out_channels: C' of the teacher's.
        init_variance: at the start.
    """

    def __init__(self, in_channels: int, out_channels: int, init_variance: float) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 1, bias=False),
        )
        # softplus(scale) + EPS is the variance
        scale = init_variance - EPS + math.log(-math.expm1(EPS - init_variance))
        self.scale = nn.Parameter(torch.full((out_channels, 1, 1), scale))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> mean (N, C', H, W) and variance (C', 1, 1)."""
        return self.mean(x), F.softplus(self.scale) + EPS
