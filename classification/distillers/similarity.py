"""PKT, RKD and SP: how the images of a batch relate to each other, in both networks.

Legend: N batch, C channels, H and W map size.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from classification.distillers.base import DISTILLER_REGISTRY, FeatureShapes
from classification.distillers.maps import map_pairs
from classification.distillers.peer import PeerDistiller, check_weight
from classification.distillers.stages import StagePairs
from classification.distillers.torchdistill_losses import MODULES, OUTPUTS, LibraryLoss
from classification.models import Features

from detectron2.config import CfgNode, configurable


@DISTILLER_REGISTRY.register()
class PKT(PeerDistiller):
    """Probabilistic knowledge transfer, Passalis and Tefas, ECCV 2018, arXiv 1803.10837.

    The cosines between the pooled features of all pairs of images, mapped to [0, 1] and divided by
    the sum of their row, are distributions; the loss is their divergence, as a mean over the N^2
    entries. torchdistill's loss.
    """

    loss_weight = 30000.0

    @configurable
    def __init__(self) -> None:
        super().__init__()
        self.loss = LibraryLoss("PKTLoss", eps=1e-7, **MODULES)

    def terms(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """The divergence."""
        return {"pkt": self.loss(student.pooled, teacher.pooled)}


@DISTILLER_REGISTRY.register()
class RKD(PeerDistiller):
    """Relational knowledge distillation, Park et al., CVPR 2019, arXiv 1904.05068.

    Smooth L1 between the distances of all pairs of pooled features, divided by the mean of those
    above 0, and between the cosines of the angles at each image to all pairs of others.
    torchdistill's loss, a factor at a time.

    Args:
        distance_weight: of the distances.
        angle_weight: of the angles.

    Raises:
        ValueError: a negative weight; at the first batch, one of a single image.
    """

    @configurable
    def __init__(self, *, distance_weight: float, angle_weight: float) -> None:
        super().__init__()
        check_weight("RKD.DISTANCE_WEIGHT", distance_weight)
        check_weight("RKD.ANGLE_WEIGHT", angle_weight)
        self.term_weights = {"distance": distance_weight, "angle": angle_weight}
        self.distance, self.angle = (
            LibraryLoss("RKDLoss", dist_factor=d, angle_factor=a, reduction="mean", **OUTPUTS)
            for d, a in ((1.0, 0.0), (0.0, 1.0))
        )

    @classmethod
    def from_config(
        cls, cfg: CfgNode, student: FeatureShapes, teacher: FeatureShapes, labels: Tensor
    ) -> dict[str, Any]:
        """Arguments of ``__init__``."""
        node = cfg.MODEL.DISTILLER.RKD
        return {"distance_weight": node.DISTANCE_WEIGHT, "angle_weight": node.ANGLE_WEIGHT}

    def terms(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """``distance`` and ``angle``."""
        if len(labels) < 2:
            raise ValueError(
                "SOLVER.IMS_PER_BATCH: got 1 image a device, but RKD compares images: expected 2"
            )
        return {
            "distance": self.distance(student.pooled, teacher.pooled),
            "angle": self.angle(student.pooled, teacher.pooled),
        }


@DISTILLER_REGISTRY.register()
class SP(PeerDistiller):
    """Similarity-preserving distillation, Tung and Mori, ICCV 2019, arXiv 1907.09682.

    Compares the last stage, as RepDistiller does; the maps of a stage may differ in every dimension
    but N. torchdistill's loss is not used: it scales rows by their sum of magnitudes.

    Args:
        pairs: the stages.
    """

    loss_weight = 3000.0

    @configurable
    def __init__(self, *, pairs: StagePairs) -> None:
        super().__init__()
        self.pairs = pairs

    @classmethod
    def from_config(
        cls, cfg: CfgNode, student: FeatureShapes, teacher: FeatureShapes, labels: Tensor
    ) -> dict[str, Any]:
        """Arguments of ``__init__``."""
        return {"pairs": map_pairs(cfg.MODEL.DISTILLER, student, teacher, published=-1)}

    def terms(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """The loss of each stage."""
        maps = zip(
            self.pairs.names,
            self.pairs.student_maps(student),
            self.pairs.teacher_maps(teacher),
            strict=True,
        )
        return {name: similarity_loss(x, y) for name, x, y in maps}


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """|G_student - G_teacher|^2 / N^2, equation 4 of Tung and Mori.

    G holds the inner products of the flattened maps of all pairs of images, each row divided by its
    Euclidean length.

    Args:
        student: (N, C, H, W).
        teacher: (N, C', H', W').

    Returns:
        Scalar.
    """
    g_student, g_teacher = (
        F.normalize(x.flatten(1) @ x.flatten(1).T)  # (N, N)
        for x in (student, teacher)
    )
    return F.mse_loss(g_student, g_teacher)
