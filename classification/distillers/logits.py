"""KD, DKD and DIST: the student's logits against the teacher's.

Legend: N batch, K classes, T temperature.
"""

from torch import Tensor

from classification.distillers.base import DISTILLER_REGISTRY, PeerDistiller
from classification.distillers.torchdistill_losses import MODULES, TorchdistillLoss
from classification.models import Features
from fam_det.core.peer_losses import decoupled_divergences

from detectron2.config import configurable


@DISTILLER_REGISTRY.register()
class KD(PeerDistiller):
    """Knowledge distillation, Hinton et al., arXiv 1503.02531.

    T^2 times the divergence KL(teacher || student) of the softmax of logits / T, mean over the
    images. torchdistill's loss, which leaves T^2 out where it is not given the labels.
    """

    loss_weight = 0.9
    ce_weight = 0.1

    @configurable
    def __init__(self, *, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.loss = TorchdistillLoss("KDLoss", temperature=temperature, beta=1.0, **MODULES)

    def terms(self, student: Features, teacher: Features, *_: Tensor) -> dict[str, Tensor]:
        """Returns the divergence."""
        return {"kd": self.temperature**2 * self.loss(student.logits, teacher.logits)}


@DISTILLER_REGISTRY.register()
class DKD(PeerDistiller):
    """Decoupled knowledge distillation, Zhao et al., CVPR 2022, arXiv 2203.08679.

    Hinton's divergence splits into one over (the target class, all others) and one over the
    classes other than the target, TCKD and NCKD; see :func:`decoupled_divergences`.
    """

    warmup_epochs = 20.0

    @configurable
    def __init__(self, *, alpha: float, beta: float, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.term_weights = {"target": alpha, "others": beta}

    def terms(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """Returns TCKD as ``target``, NCKD as ``others``."""
        tckd, nckd = decoupled_divergences(
            student.logits / self.temperature, teacher.logits / self.temperature, labels
        )
        return {"target": self.temperature**2 * tckd, "others": self.temperature**2 * nckd}


@DISTILLER_REGISTRY.register()
class DIST(PeerDistiller):
    """Distillation from a stronger teacher, Huang et al., NeurIPS 2022, arXiv 2205.10536.

    With p the softmax of logits / T, (N, K), and r Pearson's correlation:

        inter = T^2 (1 - mean over images of r(student's row of p, teacher's row))
        intra = T^2 (1 - mean over classes of r(student's column of p, teacher's column))

    torchdistill's loss. Of one image, ``intra`` is T^2 without a gradient.
    """

    @configurable
    def __init__(self, *, beta: float, gamma: float, temperature: float) -> None:
        super().__init__()
        self.term_weights = {"inter": beta, "intra": gamma}
        self.inter, self.intra = (
            TorchdistillLoss("DISTLoss", beta=b, gamma=g, tau=temperature, **MODULES)
            for b, g in ((1.0, 0.0), (0.0, 1.0))
        )

    def terms(self, student: Features, teacher: Features, *_: Tensor) -> dict[str, Tensor]:
        """Returns ``inter`` and ``intra``."""
        return {
            "inter": self.inter(student.logits, teacher.logits),
            "intra": self.intra(student.logits, teacher.logits),
        }
