"""AT, FitNet, VID and SP compare stage maps, without the pooled feature.

Legend: N batch, C channels, H and W map size.
"""

import math
from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classification.distillers.base import (
    DISTILLER_REGISTRY,
    STAGE_KEYS,
    FeatureShapes,
    PeerDistiller,
)
from classification.distillers.stages import Shape, StagePairs, stage_pairs
from classification.distillers.torchdistill_losses import PAIR, TorchdistillLoss
from classification.models import Features
from fam_det.core.checks import check_option

from detectron2.config import CfgNode, configurable

EPS = 1e-5  # minimal variance of VID


class MapDistiller(PeerDistiller):
    """Base of the peers on stage maps: a subclass compares the two maps of a stage."""

    # The only stage that the authors compare, -1 for the last; None for all except the stem.
    published: int | None = None

    @configurable
    def __init__(self, *, pairs: StagePairs) -> None:
        super().__init__()
        self.reads = {*STAGE_KEYS, type(self).__name__.upper()}
        self.pairs = pairs

    @classmethod
    def from_config(
        cls, cfg: CfgNode, student: FeatureShapes, teacher: FeatureShapes, labels: Tensor
    ) -> dict[str, Any]:
        """Returns the stages, and the values of the method's own node."""
        pairs = stage_pairs(cfg.MODEL.DISTILLER, student, teacher, published=cls.published)
        return {"pairs": pairs, **super().from_config(cfg, student, teacher, labels)}

    def terms(self, student: Features, teacher: Features, *_: Tensor) -> dict[str, Tensor]:
        """Returns the loss of each stage."""
        return {
            name: self.compare(i, x, y)
            for i, (name, x, y) in enumerate(self.pairs.maps(student, teacher))
        }

    @abstractmethod
    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        """Returns the loss of a pair, (N, C, H, W) and (N, C', H', W'), by its index in pairs."""


@DISTILLER_REGISTRY.register()
class AT(MapDistiller):
    """Attention transfer, Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928.

    The attention map of a stage is the mean square over its channels, as a vector of unit length;
    the loss is the mean squared difference of student and teacher. The larger of two maps is first
    average-pooled to the smaller one's size. Compares every stage but the stem, as mdistiller does.

    torchdistill's loss in the mode "code": the authors' code, not their equation 2.
    """

    loss_weight = 1000.0

    @configurable
    def __init__(self, *, pairs: StagePairs) -> None:
        super().__init__(pairs=pairs)
        self.loss = TorchdistillLoss("ATLoss", at_pairs={"stage": PAIR}, mode="code")

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        """Returns the squared difference of the attention."""
        return self.loss(*match_sizes(student, teacher))


@DISTILLER_REGISTRY.register()
class FitNet(MapDistiller):
    """FitNets, Romero et al., ICLR 2015, arXiv 1412.6550.

    The mean squared error between the teacher's map and a regression from the student's, by default
    of stage 2 as in RepDistiller and mdistiller. As in RepDistiller, the hint is trained together
    with the labels, not in a stage before.
    """

    loss_weight = 100.0
    published = 2

    @configurable
    def __init__(self, *, pairs: StagePairs) -> None:
        super().__init__(pairs=pairs)
        self.regressors = nn.ModuleList(
            map(hint_regressor, pairs.student.shapes, pairs.teacher.shapes)
        )

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        """Returns the error."""
        return F.mse_loss(self.regressors[index](student), teacher)


@DISTILLER_REGISTRY.register()
class VID(MapDistiller):
    """Variational information distillation, Ahn et al., CVPR 2019, arXiv 1904.05835.

    The teacher's map is modelled as a Gaussian: its mean is a regression from the student's map,
    its variance is learned for each channel. The loss is the mean of
    ((mean - map)^2 / variance + log variance) / 2, so it can be negative. The larger of two maps is
    first average-pooled to the smaller one's size. Compares every stage but the stem.

    torchdistill's loss, with RepDistiller's regressor. mdistiller and FAM-KD leave the variances
    out of the optimiser, so that they stay 5; here they are trained, as in the paper.
    """

    @configurable
    def __init__(self, *, pairs: StagePairs, init_variance: float) -> None:
        super().__init__(pairs=pairs)
        check_option("VID.INIT_VARIANCE", init_variance, init_variance > EPS, f"more than {EPS}")
        self.regressors = nn.ModuleList(
            GaussianRegressor(student[0], teacher[0], init_variance)
            for student, teacher in zip(pairs.student.shapes, pairs.teacher.shapes, strict=True)
        )
        self.loss = TorchdistillLoss("VIDLoss", feature_pairs={"stage": PAIR})

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        """Returns the negative log likelihood, without its constant."""
        student, teacher = match_sizes(student, teacher)
        return self.loss(self.regressors[index](student), teacher)


@DISTILLER_REGISTRY.register()
class SP(MapDistiller):
    """Similarity-preserving distillation, Tung and Mori, ICCV 2019, arXiv 1907.09682.

    |G_student - G_teacher|^2 / N^2, equation 4: G holds the inner products of the flattened maps of
    all pairs of images, each row divided by its Euclidean length. Compares the last stage, as
    RepDistiller does. torchdistill's loss is not used: it scales rows by their sum of magnitudes.
    """

    loss_weight = 3000.0
    published = -1

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        """Returns the squared difference of the similarities."""
        g_student, g_teacher = (
            F.normalize(x.flatten(1) @ x.flatten(1).T)  # (N, N)
            for x in (student, teacher)
        )
        return F.mse_loss(g_student, g_teacher)


def match_sizes(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pools the larger of two maps (N, C, H, W) to the smaller one's height and width."""
    height, width = (min(student.shape[i], teacher.shape[i]) for i in (2, 3))
    return (
        F.adaptive_avg_pool2d(student, (height, width)),
        F.adaptive_avg_pool2d(teacher, (height, width)),
    )


def hint_regressor(student: Shape, teacher: Shape) -> nn.Sequential:
    """Builds FitNet's convolution, batch norm and ReLU, as in RepDistiller.

    The convolution is 3x3 of stride 2 where the student's map is twice as large, a transposed 4x4
    of stride 2 where it is half as large, and otherwise as large as the difference needs.
    """
    (c_in, h, w), (c_out, teacher_h, teacher_w) = student, teacher
    conv: nn.Module
    if (h, w) == (2 * teacher_h, 2 * teacher_w):
        conv = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)
    elif (2 * h, 2 * w) == (teacher_h, teacher_w):
        conv = nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1)
    elif h >= teacher_h and w >= teacher_w:
        conv = nn.Conv2d(c_in, c_out, (1 + h - teacher_h, 1 + w - teacher_w))
    else:
        raise ValueError(
            f"STUDENT_STAGES: got a map of {h}x{w} for FitNet, expected half the size of the "
            f"teacher's map of {teacher_h}x{teacher_w}, or no smaller"
        )
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU())


class GaussianRegressor(nn.Module):
    """VID's mean and variance of the teacher's map (C' channels), given the student's (C)."""

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
