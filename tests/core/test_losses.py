"""Losses with the arithmetic shown, and what padding may do to them: nothing."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fam_det.core import hierarchical_context_loss, mse_loss

LOSSES = [mse_loss, hierarchical_context_loss]


def pooled(x: Tensor, side: int) -> Tensor:
    """Adaptive average pooling: cell i of n averages rows floor(i H / n) to ceil((i + 1) H / n)."""
    height, width = x.shape[2:]
    out = x.new_zeros(*x.shape[:2], side, side)
    for i in range(side):
        for j in range(side):
            rows = slice(i * height // side, -(-(i + 1) * height // side))
            columns = slice(j * width // side, -(-(j + 1) * width // side))
            out[:, :, i, j] = x[:, :, rows, columns].mean(dim=(2, 3))
    return out


def naive_hierarchical(student: Tensor, teacher: Tensor) -> Tensor:
    """1, 1/2, 1/4, 1/8 in the order of the sizes used, over their sum."""
    difference = student - teacher
    terms = [(difference**2).mean()]
    terms += [
        (pooled(difference, side) ** 2).mean()
        for side in (4, 2, 1)
        if side < min(student.shape[2:])
    ]
    weights = [0.5**i for i in range(len(terms))]
    return sum(w * t for w, t in zip(weights, terms, strict=True)) / sum(weights)


def maps(*shape: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)


def test_mse_of_a_hand_worked_pair() -> None:
    student = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    teacher = torch.tensor([[[[1.0, 0.0], [0.0, 4.0]]]])
    # (0 + 4 + 9 + 0) / 4
    assert mse_loss(student, teacher).item() == 3.25


def test_hierarchical_loss_of_a_hand_worked_8x8_map() -> None:
    student, teacher = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    student[0, 0, 0, 0] = 8.0
    # full: 64 / 64 = 1;  4x4: a cell of 4 pixels, (8 / 4)^2 / 16 = 1 / 4
    # 2x2: (8 / 16)^2 / 4 = 1 / 16;  1x1: (8 / 64)^2 = 1 / 64
    expected = (1 + 1 / 2 * 1 / 4 + 1 / 4 * 1 / 16 + 1 / 8 * 1 / 64) / (1 + 1 / 2 + 1 / 4 + 1 / 8)
    assert hierarchical_context_loss(student, teacher).item() == pytest.approx(expected, rel=1e-6)


def test_hierarchical_loss_of_a_hand_worked_2x2_map() -> None:
    student = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]]])
    # full: 16 / 4 = 4; 4x4 and 2x2 are not smaller than the map; 1x1: 1^2 = 1, the second weight
    expected = (4 + 1 / 2 * 1) / (1 + 1 / 2)
    loss = hierarchical_context_loss(student, torch.zeros(1, 1, 2, 2))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_on_maps_one_pixel_wide_the_hierarchical_loss_is_the_mse() -> None:
    for size in [(1, 1), (1, 7), (7, 1)]:
        student, teacher = maps(2, 3, *size)
        torch.testing.assert_close(
            hierarchical_context_loss(student, teacher), mse_loss(student, teacher)
        )


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (4, 4), (5, 5), (8, 8), (3, 9), (9, 5), (13, 4)])
def test_hierarchical_loss_and_gradient_equal_loops(size) -> None:
    student, teacher = maps(2, 3, *size)
    student.requires_grad_()
    got, want = (f(student, teacher) for f in (hierarchical_context_loss, naive_hierarchical))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    a, b = (torch.autograd.grad(z, student)[0] for z in (got, want))
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-14)


def test_mse_equals_the_torch_primitive_in_value_and_gradient() -> None:
    student, teacher = maps(2, 3, 5, 4)
    student.requires_grad_()
    got, want = mse_loss(student, teacher), F.mse_loss(student, teacher)
    torch.testing.assert_close(got, want, rtol=1e-14, atol=0)
    a, b = (torch.autograd.grad(z, student)[0] for z in (got, want))
    torch.testing.assert_close(a, b, rtol=1e-13, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_identical_maps_have_zero_loss_and_zero_gradient(loss) -> None:
    student, _ = maps(2, 3, 6, 6)
    teacher = student.clone()
    student.requires_grad_()
    value = loss(student, teacher)
    assert value.item() == 0.0
    assert torch.autograd.grad(value, student)[0].abs().max() == 0.0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("valid", [None, [(2, 3), (5, 6)]])
def test_the_loss_is_a_scalar_that_is_symmetric_and_scales_with_the_square(loss, valid) -> None:
    student, teacher = maps(2, 3, 5, 6)
    value = loss(student, teacher, valid)
    assert value.shape == ()
    torch.testing.assert_close(loss(teacher, student, valid), value)
    torch.testing.assert_close(loss(3 * student, 3 * teacher, valid), 9 * value)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_student_gets_a_gradient_and_the_teacher_none(loss) -> None:
    for valid in (None, [(2, 3), (5, 6)]):
        student, teacher = (t.requires_grad_() for t in maps(2, 3, 5, 6))
        loss(student, teacher, valid).backward()
        assert student.grad is not None
        assert student.grad.abs().sum() > 0
        assert teacher.grad is None


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_with_valid_sizes_is_the_mean_over_valid_images_their_valid_regions(loss) -> None:
    student, teacher = maps(3, 2, 9, 10)
    valid = [(9, 10), (5, 3), (1, 8)]
    expected = torch.stack(
        [
            loss(student[i : i + 1, :, :h, :w], teacher[i : i + 1, :, :h, :w])
            for i, (h, w) in enumerate(valid)
        ]
    ).mean()
    torch.testing.assert_close(loss(student, teacher, valid), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_valid_sizes_of_whole_maps_change_nothing(loss) -> None:
    student, teacher = maps(3, 2, 6, 5)
    whole = loss(student, teacher)
    torch.testing.assert_close(loss(student, teacher, [(6, 5)] * 3), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("fill", [0.0, 1e6, float("nan")])
def test_padding_changes_neither_the_loss_nor_the_gradient(loss, fill) -> None:
    student, teacher = maps(2, 3, 6, 7)
    valid = [(6, 7), (4, 5)]
    student.requires_grad_()
    value = loss(student, teacher, valid)
    (gradient,) = torch.autograd.grad(value, student)
    # more padding of any content around the whole batch, and junk in the padding that is there
    padded_student, padded_teacher = (
        F.pad(t.detach(), [0, 4, 0, 3], value=fill) for t in (student, teacher)
    )
    padded_student[1, :, 4:], padded_student[1, :, :, 5:] = fill, -fill
    padded_teacher[1, :, 4:], padded_teacher[1, :, :, 5:] = -fill, fill
    padded_student.requires_grad_()
    padded_value = loss(padded_student, padded_teacher, valid)
    torch.testing.assert_close(padded_value, value, rtol=1e-13, atol=0)
    (padded_gradient,) = torch.autograd.grad(padded_value, padded_student)
    expected = F.pad(gradient, [0, 4, 0, 3])  # zero in all of the padding
    torch.testing.assert_close(padded_gradient, expected, rtol=1e-13, atol=0)
    assert gradient[1, :, 4:].abs().sum() == gradient[1, :, :, 5:].abs().sum() == 0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_value_inside_the_valid_region_is_not_hidden(loss, bad) -> None:
    student, teacher = maps(2, 2, 5, 5)
    student[1, 0, 1, 1] = bad
    assert not torch.isfinite(loss(student, teacher))
    assert not torch.isfinite(loss(student, teacher, [(5, 5), (3, 3)]))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_are_compared_in_float32(loss, dtype) -> None:
    student = torch.full((1, 1, 5, 5), 300.0, dtype=dtype)  # 300^2 overflows float16
    value = loss(student, torch.zeros_like(student))
    assert value.item() == pytest.approx(student[0, 0, 0, 0].item() ** 2, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_maps_of_two_shapes_raise_an_error_with_got_and_expected(loss) -> None:
    for shape in [(2, 3, 5, 6), (2, 1, 5, 5), (1, 3, 5, 5)]:  # the last two would broadcast
        with pytest.raises(ValueError, match=r"(?s)(teacher|student).*got.*expected"):
            loss(torch.zeros(2, 3, 5, 5), torch.zeros(shape))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [(4, 4), (5, 6)])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_valid_sizes_raises_an_error_that_names_them(loss, size, count) -> None:
    with pytest.raises(ValueError, match="valid_sizes"):
        loss(torch.zeros(2, 3, 5, 6), torch.zeros(2, 3, 5, 6), [size] * count)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [(0, 3), (3, 0), (6, 3), (3, 7), (-1, 3)])
def test_a_valid_size_that_is_empty_or_leaves_the_map_raises_an_error(loss, size) -> None:
    with pytest.raises(ValueError, match="valid_sizes"):
        loss(torch.zeros(2, 3, 5, 6), torch.zeros(2, 3, 5, 6), [(5, 6), size])


@pytest.mark.parametrize("loss", [mse_loss, hierarchical_context_loss])
def test_maps_that_lie_channels_last_give_the_same(loss: Callable[..., Tensor]) -> None:
    student = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    teacher = torch.randn_like(student)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = student.clone(memory_format=layout).requires_grad_()
        value = loss(leaf, teacher.contiguous(memory_format=layout))
        value.backward()
        assert leaf.grad is not None
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(results[0], results[1])
