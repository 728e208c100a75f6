"""Contrastive representation distillation.

Legend: N batch, M images of the training set, K negatives, D channels of the embeddings.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classification.distillers.base import DISTILLER_REGISTRY, FeatureShapes
from classification.distillers.negatives import NegativeSampler
from classification.distillers.peer import PeerDistiller, check_option, check_positive
from classification.distillers.torchdistill_losses import import_losses
from classification.models import Features

from detectron2.config import CfgNode, configurable


@DISTILLER_REGISTRY.register()
class CRD(PeerDistiller):
    """Contrastive representation distillation, Tian et al., ICLR 2020, arXiv 1910.10699.

    Both pooled features are embedded, linearly and at unit length. Noise contrastive estimation
    tells the embedding that the other network has of the same image (from a memory of all training
    images) from those it has of K images of other classes; see :func:`contrast_memory`. The
    positive is the image itself, RepDistiller's mode "exact". A batch reads N (K + 1) D numbers of
    each memory: 540 MB for 64 images at the defaults.

    The memories are in the checkpoint. In a run on several devices each updates its own with its
    own images, and the checkpoint has the first one's.

    Args:
        student_dim: channels of the student's pooled feature.
        teacher_dim: channels of the teacher's.
        labels: int64 (M,), of the whole training set.
        dim: D.
        negatives: K.
        temperature: divides the cosine.
        momentum: share of the old embedding that the memory keeps.

    Raises:
        ValueError: an impossible option, or a training set of one class.
    """

    loss_weight = 0.8

    @configurable
    def __init__(
        self,
        *,
        student_dim: int,
        teacher_dim: int,
        labels: Tensor,
        dim: int,
        negatives: int,
        temperature: float,
        momentum: float,
    ) -> None:
        super().__init__()
        check_contrast("CRD", dim, negatives, momentum)
        check_positive("CRD.TEMPERATURE", temperature)
        self.negatives = negatives
        self.embed_student = nn.Linear(student_dim, dim)
        self.embed_teacher = nn.Linear(teacher_dim, dim)
        self.sampler = NegativeSampler(labels)
        self.contrast = contrast_memory(len(labels), dim, negatives, temperature, momentum)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, student: FeatureShapes, teacher: FeatureShapes, labels: Tensor
    ) -> dict[str, Any]:
        """Arguments of ``__init__``."""
        node = cfg.MODEL.DISTILLER.CRD
        return {
            "student_dim": student.pooled,
            "teacher_dim": teacher.pooled,
            "labels": labels,
            "dim": node.DIM,
            "negatives": node.NEGATIVES,
            "temperature": node.TEMPERATURE,
            "momentum": node.MOMENTUM,
        }

    def terms(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """The sum of both networks' contrastive losses."""
        negatives = self.sampler(labels, self.negatives)
        positions = {
            "pos_idx": indices,
            "contrast_idx": torch.cat([indices[:, None], negatives], 1),  # (N, 1 + K)
        }
        embedded_student = F.normalize(self.embed_student(student.pooled))
        embedded_teacher = F.normalize(self.embed_teacher(teacher.pooled))
        loss = self.contrast(
            {"embedding": {"output": embedded_student}, "positions": {"input": positions}},
            {"embedding": {"output": embedded_teacher}},
        )
        # The loss writes its normalisation into a buffer along with the graph of its first batch.
        self.contrast.get_buffer("params").detach_()
        return {"crd": loss.squeeze(0)}


def contrast_memory(
    num_images: int, dim: int, negatives: int, temperature: float, momentum: float
) -> nn.Module:
    """The CRD loss of torchdistill, whose memories are buffers.

    With v and w an embedding and a memory's, s = exp(v w / T) / Z, where Z is M times the mean of
    exp(v w / T) in the first batch of the run, and c = K / M:

        loss = -mean over the batch of (log s_0 / (s_0 + c) + sum over k > 0 of log c / (s_k + c))

    once with the student's embeddings and the teacher's memory, once the other way round. Then a
    memory becomes (momentum * old + (1 - momentum) * new), at unit length, for the batch's images.

    Args:
        num_images: M.
        dim: D.
        negatives: K.
        temperature: T.
        momentum: share of the old embedding.
    """

    class ContrastMemory(import_losses().CRDLoss):  # type: ignore[misc]
        def init_prob_alias(self, probs: Tensor) -> None:
            """No tables for its own sampling, which takes negatives of any class: we draw them."""
            self.probs = self.alias = probs

    return ContrastMemory(
        student_norm_module_path="embedding",
        teacher_norm_module_path="embedding",
        student_empty_module_path="positions",
        input_size=dim,
        output_size=num_images,
        num_negative_samples=negatives,
        num_samples=num_images,
        temperature=temperature,
        momentum=momentum,
    )


def check_contrast(method: str, dim: int, negatives: int, momentum: float) -> None:
    """Raise a ValueError that names the key of an option that makes no sense."""
    check_positive(f"{method}.DIM", dim)
    check_positive(f"{method}.NEGATIVES", negatives)
    check_option(f"{method}.MOMENTUM", momentum, 0 <= momentum < 1, "0 or more, below 1")
