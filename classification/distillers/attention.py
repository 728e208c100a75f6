"""Attention transfer.

Legend: N batch, C channels, H and W map size.
"""

from typing import Any

from torch import Tensor

from classification.distillers.base import DISTILLER_REGISTRY, FeatureShapes
from classification.distillers.maps import map_pairs, match_sizes
from classification.distillers.peer import PeerDistiller
from classification.distillers.stages import StagePairs
from classification.distillers.torchdistill_losses import PAIR, LibraryLoss
from classification.models import Features

from detectron2.config import CfgNode, configurable


@DISTILLER_REGISTRY.register()
class AT(PeerDistiller):
    """Attention transfer, Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928.

    The attention map of a stage is the mean square over its channels, as a vector of unit length;
    the loss is the mean squared difference of student and teacher. The larger of two maps is first
    average-pooled to the smaller one's size. Compares every stage but the stem, as mdistiller does.

    torchdistill's loss in the mode "code": the authors' code, not their equation 2.

    Args:
        pairs: the stages.
    """

    loss_weight = 1000.0

    @configurable
    def __init__(self, *, pairs: StagePairs) -> None:
        super().__init__()
        self.pairs = pairs
        self.loss = LibraryLoss("ATLoss", at_pairs={"stage": PAIR}, mode="code")

    @classmethod
    def from_config(
        cls, cfg: CfgNode, student: FeatureShapes, teacher: FeatureShapes, labels: Tensor
    ) -> dict[str, Any]:
        """Arguments of ``__init__``."""
        return {"pairs": map_pairs(cfg.MODEL.DISTILLER, student, teacher)}

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
        return {name: self.loss(*match_sizes(x, y)) for name, x, y in maps}
