"""FitNet's hints.

Legend: N batch, C channels, H and W map size.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from classification.distillers.base import DISTILLER_REGISTRY, FeatureShapes
from classification.distillers.maps import map_pairs
from classification.distillers.peer import PeerDistiller
from classification.distillers.stages import StagePairs
from classification.models import Features

from detectron2.config import CfgNode, configurable

# The stage that RepDistiller and mdistiller compare.
HINT_STAGE = 2


@DISTILLER_REGISTRY.register()
class FitNet(PeerDistiller):
    """FitNets, Romero et al., ICLR 2015, arXiv 1412.6550.

    The mean squared error between the teacher's map and what a regressor makes of the student's.
    As in RepDistiller, the hint is trained with the labels from the start, not in a stage before.

    Args:
        pairs: the stages, one in the published recipe.
        student: (C, H, W) of the student's map of each.
        teacher: (C, H, W) of the teacher's map of each.

    Raises:
        ValueError: maps between whose sizes :func:`hint_regressor` has no convolution.
    """

    loss_weight = 100.0

    @configurable
    def __init__(
        self,
        *,
        pairs: StagePairs,
        student: list[tuple[int, int, int]],
        teacher: list[tuple[int, int, int]],
    ) -> None:
        super().__init__()
        self.pairs = pairs
        self.regressors = nn.ModuleList(map(hint_regressor, student, teacher))

    @classmethod
    def from_config(
        cls, cfg: CfgNode, student: FeatureShapes, teacher: FeatureShapes, labels: Tensor
    ) -> dict[str, Any]:
        """Arguments of ``__init__``."""
        pairs = map_pairs(cfg.MODEL.DISTILLER, student, teacher, published=HINT_STAGE)
        return {
            "pairs": pairs,
            "student": pairs.shapes(student, teacher=False),
            "teacher": pairs.shapes(teacher, teacher=True),
        }

    def terms(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """The error of each stage."""
        hints = [
            regressor(x)
            for regressor, x in zip(self.regressors, self.pairs.student_maps(student), strict=True)
        ]
        return {
            name: F.mse_loss(hint, y)
            for name, hint, y in zip(
                self.pairs.names, hints, self.pairs.teacher_maps(teacher), strict=True
            )
        }


def hint_regressor(student: tuple[int, int, int], teacher: tuple[int, int, int]) -> nn.Sequential:
    """Convolution, batch norm and ReLU from the student's map to the teacher's, as in RepDistiller.

    The convolution is 3x3 of stride 2 where the student's map is twice as large, a transposed 4x4
    of stride 2 where it is half as large, and otherwise as large as the difference needs.

    Args:
        student: (C, H, W).
        teacher: (C, H, W).

    Raises:
        ValueError: a student's map that is smaller, but not by 2.
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
