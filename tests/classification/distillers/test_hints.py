"""FitNet's regressor and error."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classification.distillers import Distiller
from classification.distillers.hints import hint_regressor
from classification.models import Features


def test_term_is_the_error_of_the_normalised_convolution(
    make_distiller: Callable[..., Distiller],
    student: Features,
    teacher: Features,
    labels: Tensor,
    indices: Tensor,
) -> None:
    distiller = make_distiller("FitNet")
    conv = next(m for m in distiller.modules() if isinstance(m, nn.Conv2d))
    x = F.conv2d(student.maps[2], conv.weight, conv.bias)
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    hint = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    terms = distiller(student, teacher, labels, indices)
    expected = (hint.clamp(min=0) - teacher.maps[2]).square().mean()
    assert list(terms) == ["stage2"]
    torch.testing.assert_close(terms["stage2"], expected)


@pytest.mark.parametrize(
    ("student_size", "teacher_size", "kernel", "kind"),
    [
        ((8, 8), (4, 4), (3, 3), nn.Conv2d),
        ((4, 6), (8, 12), (4, 4), nn.ConvTranspose2d),
        ((5, 5), (5, 5), (1, 1), nn.Conv2d),
        ((9, 7), (4, 6), (6, 2), nn.Conv2d),
    ],
)
def test_regressor_gives_the_teachers_shape(
    student_size: tuple[int, int],
    teacher_size: tuple[int, int],
    kernel: tuple[int, int],
    kind: type[nn.Module],
) -> None:
    regressor = hint_regressor((3, *student_size), (5, *teacher_size))
    assert isinstance(regressor[0], kind)
    assert regressor[0].kernel_size == kernel
    assert regressor(torch.randn(2, 3, *student_size)).shape == (2, 5, *teacher_size)


def test_a_much_smaller_student_is_an_error() -> None:
    with pytest.raises(ValueError, match="STUDENT_STAGES: got a map of 2x2 .* of 8x8"):
        hint_regressor((3, 2, 2), (5, 8, 8))
