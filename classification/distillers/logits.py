"""KD and DIST: the student's logits against the teacher's.

Legend: N batch, K classes, T temperature.
"""

from typing import Any

from torch import Tensor

from classification.distillers.base import DISTILLER_REGISTRY, FeatureShapes
from classification.distillers.peer import PeerDistiller, check_positive, check_weight
from classification.distillers.torchdistill_losses import MODULES, LibraryLoss
from classification.models import Features

from detectron2.config import CfgNode, configurable


@DISTILLER_REGISTRY.register()
class KD(PeerDistiller):
    """Knowledge distillation, Hinton et al., arXiv 1503.02531.

    T^2 times the divergence KL(teacher || student) of the softmax of logits / T, mean over the
    images. torchdistill's loss, which leaves T^2 out where it is not given the labels.

    Args:
        temperature: T, positive.

    Raises:
        ValueError: a temperature that is not positive.
    """

    loss_weight = 0.9
    ce_weight = 0.1

    @configurable
    def __init__(self, *, temperature: float) -> None:
        super().__init__()
        check_positive("KD.TEMPERATURE", temperature)
        self.temperature = temperature
        self.loss = LibraryLoss("KDLoss", temperature=temperature, beta=1.0, **MODULES)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, student: FeatureShapes, teacher: FeatureShapes, labels: Tensor
    ) -> dict[str, Any]:
        """Arguments of ``__init__``."""
        return {"temperature": cfg.MODEL.DISTILLER.KD.TEMPERATURE}

    def terms(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """The divergence."""
        return {"kd": self.temperature**2 * self.loss(student.logits, teacher.logits)}


@DISTILLER_REGISTRY.register()
class DIST(PeerDistiller):
    """Distillation from a stronger teacher, Huang et al., NeurIPS 2022, arXiv 2205.10536.

    With p the softmax of logits / T, (N, K), and r Pearson's correlation:

        inter = T^2 (1 - mean over images of r(student's row of p, teacher's row))
        intra = T^2 (1 - mean over classes of r(student's column of p, teacher's column))

    torchdistill's loss. Of one image, ``intra`` is T^2 without a gradient.

    Args:
        beta: weight of ``inter``.
        gamma: weight of ``intra``.
        temperature: T, positive.

    Raises:
        ValueError: a negative weight, or a temperature that is not positive.
    """

    @configurable
    def __init__(self, *, beta: float, gamma: float, temperature: float) -> None:
        super().__init__()
        check_weight("DIST.BETA", beta)
        check_weight("DIST.GAMMA", gamma)
        check_positive("DIST.TEMPERATURE", temperature)
        self.term_weights = {"inter": beta, "intra": gamma}
        self.inter = LibraryLoss("DISTLoss", beta=1.0, gamma=0.0, tau=temperature, **MODULES)
        self.intra = LibraryLoss("DISTLoss", beta=0.0, gamma=1.0, tau=temperature, **MODULES)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, student: FeatureShapes, teacher: FeatureShapes, labels: Tensor
    ) -> dict[str, Any]:
        """Arguments of ``__init__``."""
        node = cfg.MODEL.DISTILLER.DIST
        return {"beta": node.BETA, "gamma": node.GAMMA, "temperature": node.TEMPERATURE}

    def terms(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """``inter`` and ``intra``."""
        return {
            "inter": self.inter(student.logits, teacher.logits),
            "intra": self.intra(student.logits, teacher.logits),
        }
