"""CRD and WCoRD: the pooled feature of an image against those of images of other classes.

Legend: N batch, M images of the training set, K negatives, D channels of the embeddings.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from classification.distillers.base import DISTILLER_REGISTRY, FeatureShapes, PeerDistiller
from classification.distillers.torchdistill_losses import import_losses
from classification.models import Features
from fam_det.core.checks import check_option

from detectron2.config import CfgNode, configurable


class NegativeSampler(nn.Module):
    """Draws images of other classes, uniformly, with replacement, from torch's global generator.

    With replacement, any number can be drawn from a training set of any size. RepDistiller draws
    without where there are enough; the loss has the same mean. ``labels`` are those of the whole
    training set, int64 (M,).
    """

    order: Tensor
    start: Tensor
    count: Tensor

    def __init__(self, labels: Tensor) -> None:
        super().__init__()
        count = labels.bincount()
        if (count > 0).sum() < 2:
            raise ValueError("labels: got a training set of one class, expected two or more")
        # The data set determines these, so no checkpoint holds them.
        self.register_buffer("order", labels.argsort(stable=True), persistent=False)
        self.register_buffer("start", count.cumsum(0) - count, persistent=False)
        self.register_buffer("count", count, persistent=False)

    def forward(self, labels: Tensor, number: int) -> Tensor:
        """Returns positions in the training set: int64 (N,) -> (N, K)."""
        start, count = (x[labels][:, None] for x in (self.start, self.count))  # (N, 1)
        num_others = len(self.order) - count
        # randint has no bound per row; the modulo of a large number is practically uniform.
        draws = torch.randint(2**62, (len(labels), number), device=labels.device)
        rank = draws % num_others  # among the images of other classes, sorted by class
        return self.order[rank + count * (rank >= start)]  # skips the label's own class


class ContrastiveDistiller(PeerDistiller):
    """Base of the methods with a memory of every training image's embedding in either network.

    The memories are in the checkpoint. On several devices each updates its memory with its own
    images, and the checkpoint has the first one's. Besides its options a subclass takes the
    channels of both pooled features and the labels of the whole training set, int64 (M,).
    """

    def __init__(self, *, labels: Tensor, negatives: int, momentum: float) -> None:
        super().__init__()
        key = f"{type(self).__name__.upper()}.MOMENTUM"
        check_option(key, momentum, 0 <= momentum < 1, "0 or more, below 1")
        self.negatives = negatives
        self.momentum = momentum
        self.sampler = NegativeSampler(labels)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, student: FeatureShapes, teacher: FeatureShapes, labels: Tensor
    ) -> dict[str, Any]:
        """Returns the features' channels, the labels, and the values of the method's own node."""
        options = super().from_config(cfg, student, teacher, labels)
        dims = {"student_dim": student.pooled, "teacher_dim": teacher.pooled}
        return {**dims, "labels": labels, **options}


@DISTILLER_REGISTRY.register()
class CRD(ContrastiveDistiller):
    """Contrastive representation distillation, Tian et al., ICLR 2020, arXiv 1910.10699.

    Both pooled features are embedded linearly and normalised. Noise contrastive estimation
    distinguishes the other network's embedding of the same image, from a memory of all training
    images, from its embeddings of K images of other classes; see :func:`contrast_memory`. The
    positive is the image itself, RepDistiller's mode "exact". A batch reads N (K + 1) D numbers of
    each memory: 540 MB for 64 images with the defaults.
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
        super().__init__(labels=labels, negatives=negatives, momentum=momentum)
        self.embed_student = nn.Linear(student_dim, dim)
        self.embed_teacher = nn.Linear(teacher_dim, dim)
        self.contrast = contrast_memory(len(labels), dim, negatives, temperature, momentum)

    def terms(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """Returns the sum of both networks' contrastive losses."""
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
        # The loss stores its normalisation in a buffer, with the autograd graph of the first batch.
        self.contrast.get_buffer("params").detach_()
        return {"crd": loss.squeeze(0)}


def contrast_memory(
    num_images: int, dim: int, negatives: int, temperature: float, momentum: float
) -> nn.Module:
    """Builds the CRD loss of torchdistill for M ``num_images``, whose memories are buffers.

    With v and w an embedding and a memory's, T the temperature, s = exp(v w / T) / Z, where Z is M
    times the mean of exp(v w / T) in the first batch of the run, and c = K / M:

        loss = -mean over the batch of (log s_0 / (s_0 + c) + sum over k > 0 of log c / (s_k + c))

    once with the student's embeddings and the teacher's memory, once the other way round. Then a
    memory becomes (momentum * old + (1 - momentum) * new), at unit length, for the batch's images.
    """

    class ContrastMemory(import_losses().CRDLoss):  # type: ignore[misc]
        def init_prob_alias(self, probs: Tensor) -> None:
            """Skips the tables of torchdistill's sampling, which draws negatives of any class."""
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


@DISTILLER_REGISTRY.register()
class WCoRD(ContrastiveDistiller):
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
        super().__init__(labels=labels, negatives=negatives, momentum=momentum)
        self.term_weights = {"global": global_weight, "local": local_weight}
        self.entropy = entropy
        self.embed_student = LipschitzEmbedding(student_dim, dim)
        self.embed_teacher = LipschitzEmbedding(teacher_dim, dim)
        self.register_buffer("memory_student", torch.zeros(len(labels), dim))
        self.register_buffer("memory_teacher", torch.zeros(len(labels), dim))

    def terms(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """Returns ``global`` and ``local``, then moves the memories towards the batch."""
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
        """Moves the images' rows of a memory (M, D) towards their embeddings (N, D)."""
        memory[indices] = torch.lerp(embedded.to(memory.dtype), memory[indices], self.momentum)


class LipschitzEmbedding(nn.Module):
    """Normalises, then maps linearly with spectral norm 1, by one power iteration per step."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear = spectral_norm(nn.Linear(in_dim, out_dim, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) -> (N, D), of length 1 at most."""
        return self.linear(F.normalize(x))


def transport_plan(cost: Tensor, entropy: float, iterations: int = 20) -> Tensor:
    """Solves entropic optimal transport by Sinkhorn's algorithm (arXiv 1306.0895), in logarithms.

    The plan pi with row sums 1 / N and column sums 1 / P that minimises
    sum(pi * cost) + entropy * sum(pi * log(pi)), approached by scaling rows and columns in turn.
    The columns are scaled last, so their sums are exact.

    Args:
        cost: (N, P), between the points of two sets; takes no gradient.
        entropy: weight of the entropy, positive, in the cost's unit.
        iterations: how often rows and columns are scaled.

    Returns:
        pi, (N, P).
    """
    log_plan = -cost.detach() / entropy
    n, p = cost.shape
    for _ in range(iterations):
        log_plan = log_plan - log_plan.logsumexp(1, keepdim=True) - math.log(n)
        log_plan = log_plan - log_plan.logsumexp(0, keepdim=True) - math.log(p)
    return log_plan.exp()


def transport_cost(cost: Tensor, entropy: float) -> Tensor:
    """Returns sum(pi * cost) of the transport plan pi for costs (N, P).

    The plan is held fixed, so the gradient is that of the regularised minimum (Danskin's theorem).
    """
    return torch.sum(transport_plan(cost, entropy) * cost)
