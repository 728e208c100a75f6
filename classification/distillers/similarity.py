"""PKT and RKD compare relations between the pooled features of a batch's images.

Legend: N batch.
"""

from torch import Tensor

from classification.distillers.base import DISTILLER_REGISTRY, PeerDistiller
from classification.distillers.torchdistill_losses import MODULES, OUTPUTS, TorchdistillLoss
from classification.models import Features

from detectron2.config import configurable


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
        self.loss = TorchdistillLoss("PKTLoss", eps=1e-7, **MODULES)

    def terms(self, student: Features, teacher: Features, *_: Tensor) -> dict[str, Tensor]:
        """Returns the divergence."""
        return {"pkt": self.loss(student.pooled, teacher.pooled)}


@DISTILLER_REGISTRY.register()
class RKD(PeerDistiller):
    """Relational knowledge distillation, Park et al., CVPR 2019, arXiv 1904.05068.

    Smooth L1 between the distances of all pairs of pooled features, divided by the mean of those
    above 0, and between the cosines of the angles at each image to all pairs of others.
    torchdistill's loss, a factor at a time.
    """

    @configurable
    def __init__(self, *, distance_weight: float, angle_weight: float) -> None:
        super().__init__()
        self.term_weights = {"distance": distance_weight, "angle": angle_weight}
        self.distance, self.angle = (
            TorchdistillLoss("RKDLoss", dist_factor=d, angle_factor=a, reduction="mean", **OUTPUTS)
            for d, a in ((1.0, 0.0), (0.0, 1.0))
        )

    def terms(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """Returns ``distance`` and ``angle``."""
        if len(labels) < 2:
            raise ValueError(
                "SOLVER.IMS_PER_BATCH: got 1 image a device, but RKD compares images: expected 2"
            )
        return {
            "distance": self.distance(student.pooled, teacher.pooled),
            "angle": self.angle(student.pooled, teacher.pooled),
        }
