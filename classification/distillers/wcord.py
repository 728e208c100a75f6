"""Wasserstein contrastive representation distillation.

Legend: N batch, M images of the training set, K negatives, D channels of the embeddings.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from classification.distillers.base import DISTILLER_REGISTRY, FeatureShapes
from classification.distillers.contrastive import check_contrast
from classification.distillers.negatives import NegativeSampler
from classification.distillers.peer import PeerDistiller, check_positive, check_weight
from classification.distillers.transport import transport_cost
from classification.models import Features

from detectron2.config import CfgNode, configurable


@DISTILLER_REGISTRY.register()
class WCoRD(PeerDistiller):
    """Wasserstein contrastive distillation, Chen et al., CVPR 2021, arXiv 2012.08674.

    With t and s the embeddings of the teacher's and the student's pooled features:

    - ``global`` (GCKT) is the negative dual form of the Wasserstein distance between the pairs
      (t, s) of one image and the pairs of images of different classes,
      -(E[g(t, s)] - E[g(t, s')] / 2 - E[g(t', s)] / 2), with a 1-Lipschitz critic g. The primes are
      K images drawn from a memory of the whole training set, as in CRD.
    - ``local`` (LCKT) is its primal form within the batch: the cost of the entropic optimal
      transport from the teacher's embeddings to the student's, c(t, s) = 1 - cos(t, s).

    No code was released. Ours are: the critic, g(t, s) = <t, s> with t and s linear in the features
    of unit length, under a spectral norm of 1, so that g is 1-Lipschitz in each feature; means over
    the negatives rather than sums; memories that start at 0; the entropy and its 20 iterations.

    The memories are in the checkpoint. In a run on several devices each updates its own with its
    own images, and the checkpoint has the first one's.

    Args:
        student_dim: channels of the student's pooled feature.
        teacher_dim: channels of the teacher's.
        labels: int64 (M,), of the whole training set.
        dim: D.
        negatives: K.
        momentum: share of the old embedding that the memory keeps.
        global_weight: of ``global``, lambda_1.
        local_weight: of ``local``, lambda_2.
        entropy: its weight in the transport.

    Raises:
        ValueError: an impossible option, or a training set of one class.
    """

    memory_student: Tensor
    memory_teacher: Tensor

    @configurable
    def __init__(
        self,
        *,
        student_dim: int,
        teacher_dim: int,
        labels: Tensor,
        dim: int,
        negatives: int,
        momentum: float,
        global_weight: float,
        local_weight: float,
        entropy: float,
    ) -> None:
        super().__init__()
        check_contrast("WCORD", dim, negatives, momentum)
        check_weight("WCORD.GLOBAL_WEIGHT", global_weight)
        check_weight("WCORD.LOCAL_WEIGHT", local_weight)
        check_positive("WCORD.ENTROPY", entropy)
        self.term_weights = {"global": global_weight, "local": local_weight}
        self.negatives, self.momentum, self.entropy = negatives, momentum, entropy
        self.embed_student = LipschitzEmbedding(student_dim, dim)
        self.embed_teacher = LipschitzEmbedding(teacher_dim, dim)
        self.sampler = NegativeSampler(labels)
        self.register_buffer("memory_student", torch.zeros(len(labels), dim))
        self.register_buffer("memory_teacher", torch.zeros(len(labels), dim))

    @classmethod
    def from_config(
        cls, cfg: CfgNode, student: FeatureShapes, teacher: FeatureShapes, labels: Tensor
    ) -> dict[str, Any]:
        """Arguments of ``__init__``."""
        node = cfg.MODEL.DISTILLER.WCORD
        return {
            "student_dim": student.pooled,
            "teacher_dim": teacher.pooled,
            "labels": labels,
            "dim": node.DIM,
            "negatives": node.NEGATIVES,
            "momentum": node.MOMENTUM,
            "global_weight": node.GLOBAL_WEIGHT,
            "local_weight": node.LOCAL_WEIGHT,
            "entropy": node.ENTROPY,
        }

    def terms(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """``global`` and ``local``; the memories then take up the batch."""
        s, t = self.embed_student(student.pooled), self.embed_teacher(teacher.pooled)  # (N, D)
        negatives = self.sampler(labels, self.negatives)  # (N, K)
        # g is bilinear: its mean over the negatives is its value at their mean
        s_mean = F.embedding_bag(negatives, self.memory_student, mode="mean")
        t_mean = F.embedding_bag(negatives, self.memory_teacher, mode="mean")
        dual = torch.sum(t * s - (t * s_mean + t_mean * s) / 2, 1).mean()
        cost = 1 - F.normalize(t) @ F.normalize(s).T  # (N, N)
        self._remember(self.memory_student, s, indices)
        self._remember(self.memory_teacher, t, indices)
        return {"global": -dual, "local": transport_cost(cost, self.entropy)}

    @torch.no_grad()
    def _remember(self, memory: Tensor, embedded: Tensor, indices: Tensor) -> None:
        """Move the images' rows of a memory (M, D) towards their embeddings (N, D)."""
        memory[indices] = torch.lerp(embedded.to(memory.dtype), memory[indices], self.momentum)


class LipschitzEmbedding(nn.Module):
    """Unit length, then a linear map of spectral norm 1, found by one power iteration a step.

    Args:
        in_dim: channels of the feature.
        out_dim: D.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear = spectral_norm(nn.Linear(in_dim, out_dim, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) -> (N, D), of length 1 at most."""
        return self.linear(F.normalize(x))
