"""CRD against loops over its definition, its memories included."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from classification.distillers import Distiller
from classification.models import Features

Make = Callable[..., Distiller]
NEGATIVES, IMAGES = 9, 23


class NaiveCRD:
    """One image, one negative at a time, equation 9 to 18 of the paper as RepDistiller has them."""

    def __init__(self, distiller: Any) -> None:
        self.distiller = distiller
        self.memories = [distiller.contrast.memory_v1.clone(), distiller.contrast.memory_v2.clone()]
        self.z: list[float | None] = [None, None]

    def __call__(
        self, student: Features, teacher: Features, indices: Tensor, negatives: Tensor
    ) -> float:
        s = F.normalize(
            student.pooled @ self.distiller.embed_student.weight.T
            + self.distiller.embed_student.bias
        )
        t = F.normalize(
            teacher.pooled @ self.distiller.embed_teacher.weight.T
            + self.distiller.embed_teacher.bias
        )
        s, t = s.detach(), t.detach()
        temperature = self.distiller.contrast.params[1].item()
        loss = 0.0
        for own, other, side in ((s, self.memories[1], 0), (t, self.memories[0], 1)):
            scores = [
                [math.exp(v @ other[j] / temperature) for j in (i, *row)]
                for v, i, row in zip(own, indices.tolist(), negatives.tolist(), strict=True)
            ]
            mean = sum(map(sum, scores)) / (len(scores) * (1 + NEGATIVES))
            self.z[side] = self.z[side] or IMAGES * mean
            c = NEGATIVES / IMAGES
            for positive, *rest in [[x / self.z[side] for x in row] for row in scores]:
                terms = [positive / (positive + c), *(c / (x + c) for x in rest)]
                loss -= sum(map(math.log, terms)) / len(scores)
        for memory, own in zip(self.memories, (s, t), strict=True):
            for i, v in zip(indices.tolist(), own, strict=True):
                memory[i] = F.normalize(0.5 * memory[i] + 0.5 * v, dim=0)
        return loss


def test_three_steps_equal_the_naive_ones(
    make_distiller: Make,
    make_features: Callable[..., Features],
    shapes: Any,
    labels: Tensor,
    indices: Tensor,
) -> None:
    distiller: Any = make_distiller("CRD", "CRD.DIM", 4)
    naive = NaiveCRD(distiller)
    for step in range(3):
        student = make_features(shapes["student"], 10 + step, grad=True)
        teacher = make_features(shapes["teacher"], 20 + step)
        torch.manual_seed(step)
        loss = distiller(student, teacher, labels, indices)["crd"]
        torch.manual_seed(step)
        negatives = distiller.sampler(labels, NEGATIVES)
        assert loss.item() == pytest.approx(naive(student, teacher, indices, negatives), rel=1e-5)
        torch.testing.assert_close(distiller.contrast.memory_v1, naive.memories[0])
        torch.testing.assert_close(distiller.contrast.memory_v2, naive.memories[1])


def test_a_loaded_checkpoint_goes_on_as_the_run_would_have(
    make_distiller: Make, student: Features, teacher: Features, labels: Tensor, indices: Tensor
) -> None:
    unbroken: Any = make_distiller("CRD")
    unbroken(student, teacher, labels, indices)
    resumed = make_distiller("CRD")
    resumed.load_state_dict(unbroken.state_dict())
    losses = []
    for distiller in (unbroken, resumed):
        torch.manual_seed(7)
        losses.append(distiller(student, teacher, labels, indices)["crd"])
    assert torch.equal(*losses)
    assert not any(buffer.requires_grad for buffer in unbroken.buffers())


def test_more_negatives_than_images_are_drawn_again(
    make_distiller: Make, student: Features, teacher: Features, labels: Tensor, indices: Tensor
) -> None:
    distiller = make_distiller("CRD", "CRD.NEGATIVES", 500)
    assert distiller(student, teacher, labels, indices)["crd"].isfinite()
