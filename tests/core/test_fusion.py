"""Window cross attention and attention based fusion against loops over positions."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fam_det.core import AttentionBasedFusion, WindowCrossAttention
from tests.core.core_reference import attention_based_fusion, window_cross_attention

SIZES = [(1, 1), (1, 3), (3, 1), (2, 5), (4, 4)]


def make(cls: type[nn.Module], channels: int, **options: int) -> nn.Module:
    """A float64 module with every parameter drawn from a normal distribution."""
    torch.manual_seed(0)
    module = cls(channels, **options).double()
    with torch.no_grad():
        for p in module.parameters():
            p.normal_()
    return module


def inputs(n: int, channels: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A student map and a residual."""
    shape = (n, channels, *size)
    return torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)


def assert_equal_in_value_and_gradient(module, reference, x: Tensor, y: Tensor) -> None:
    """``reference(x, y, state)`` and ``module(x, y)``, and gradients in maps and parameters."""
    x.requires_grad_()
    y.requires_grad_()
    state = dict(module.named_parameters())
    out, expected = module(x, y), reference(x, y, state)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    probe = torch.randn_like(out)
    got, want = (
        torch.autograd.grad((z * probe).sum(), [x, y, *state.values()]) for z in (out, expected)
    )
    for name, a, b in zip(["student_map", "residual", *state], got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize("size", SIZES)
def test_attention_and_its_gradients_equal_a_loop_over_windows(size, window) -> None:
    module = make(WindowCrossAttention, 4, window=window)
    assert_equal_in_value_and_gradient(module, window_cross_attention, *inputs(2, 4, size))


@pytest.mark.parametrize("size", SIZES)
def test_abf_and_its_gradients_equal_a_loop_over_positions(size) -> None:
    module = make(AttentionBasedFusion, 3)
    assert_equal_in_value_and_gradient(module, attention_based_fusion, *inputs(2, 3, size))


def test_attention_has_the_documented_parameters() -> None:
    found = {n: tuple(p.shape) for n, p in WindowCrossAttention(6).named_parameters()}
    convolution = (6, 6, 1, 1)
    assert found == {
        "query.weight": convolution,
        "key.weight": convolution,
        "value.weight": convolution,
        "row_offset": (3, 3),
        "column_offset": (3, 3),
    }


def test_attention_starts_with_kaiming_fan_out_weights_and_unit_normal_offsets() -> None:
    torch.manual_seed(0)
    module = WindowCrossAttention(256)
    for conv in (module.query, module.key, module.value):
        assert conv.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.02)
        assert abs(conv.weight.mean().item()) < 1e-3
    for offset in (module.row_offset, module.column_offset):
        assert offset.std().item() == pytest.approx(1.0, rel=0.12)


def test_abf_has_a_two_channel_gate_with_bias() -> None:
    found = {n: tuple(p.shape) for n, p in AttentionBasedFusion(6).named_parameters()}
    assert found == {"gate.weight": (2, 12, 1, 1), "gate.bias": (2,)}


def test_a_window_of_one_is_the_value_convolution() -> None:
    module = make(WindowCrossAttention, 4, window=1)
    x, y = inputs(2, 4, (3, 5))
    torch.testing.assert_close(module(x, y), F.conv2d(x, module.value.weight), rtol=0, atol=1e-13)


@pytest.mark.parametrize("window", [3, 5])
def test_a_zero_query_averages_the_zero_padded_values(window) -> None:
    module = make(WindowCrossAttention, 4, window=window)
    x, _ = inputs(2, 4, (4, 6))
    value = F.conv2d(x, module.value.weight)
    expected = F.avg_pool2d(value, window, stride=1, padding=window // 2, count_include_pad=True)
    torch.testing.assert_close(module(x, torch.zeros_like(x)), expected, rtol=0, atol=1e-13)


def test_half_the_channels_look_up_and_the_other_half_look_left() -> None:
    """A large offset on one window row (column) selects the value one cell up (to the left)."""
    module = make(WindowCrossAttention, 2)
    with torch.no_grad():
        for conv in (module.query, module.key, module.value):
            conv.weight.copy_(torch.eye(2, dtype=torch.float64)[..., None, None])
        module.key.weight.zero_()
        module.row_offset.copy_(torch.tensor([[1.0, 0.0, 0.0]]))
        module.column_offset.copy_(torch.tensor([[1.0, 0.0, 0.0]]))
    x = torch.arange(9.0, dtype=torch.float64).view(1, 1, 3, 3).repeat(1, 2, 1, 1)
    out = module(x, torch.full_like(x, 50.0))
    # by row: the mean of the three cells above, (0 + 1 + 2) / 3; by column: of the three at left
    assert out[0, 0, 1, 1].item() == pytest.approx((0 + 1 + 2) / 3, abs=1e-12)
    assert out[0, 1, 1, 1].item() == pytest.approx((0 + 3 + 6) / 3, abs=1e-12)
    assert out[0, 0, 0].abs().max() < 1e-12  # above the first row there are zeros


def test_padding_takes_part_in_the_softmax_with_the_offset_alone() -> None:
    """A 1x1 map with q = k = v = 1 and no offsets gives e / (e + 8): 8 positions are padding."""
    module = make(WindowCrossAttention, 2)
    with torch.no_grad():
        for conv in (module.query, module.key, module.value):
            conv.weight.copy_(torch.eye(2, dtype=torch.float64)[..., None, None])
        module.row_offset.zero_()
        module.column_offset.zero_()
    one = torch.ones(1, 2, 1, 1, dtype=torch.float64)
    e = torch.e
    assert module(one, one)[0, 0, 0, 0].item() == pytest.approx(e / (e + 8), abs=1e-14)


def test_a_gate_of_zero_weights_is_half_the_sum() -> None:
    module = make(AttentionBasedFusion, 3)
    with torch.no_grad():
        module.gate.weight.zero_()
        module.gate.bias.zero_()
    x, y = inputs(2, 3, (4, 5))
    torch.testing.assert_close(module(x, y), (x + y) / 2, rtol=0, atol=1e-14)


def test_a_gate_can_choose_the_student_map_or_the_residual() -> None:
    module = make(AttentionBasedFusion, 3)
    x, y = inputs(2, 3, (4, 5))
    for bias, chosen in (([40.0, -40.0], x), ([-40.0, 40.0], y)):
        with torch.no_grad():
            module.gate.weight.zero_()
            module.gate.bias.copy_(torch.tensor(bias))
        torch.testing.assert_close(module(x, y), chosen, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cls", [WindowCrossAttention, AttentionBasedFusion])
@pytest.mark.parametrize("size", [(1, 1), (2, 3)])
def test_gradcheck_in_maps_and_parameters(cls, size) -> None:
    module = make(cls, 2)
    names = [name for name, _ in module.named_parameters()]

    def call(x: Tensor, y: Tensor, *parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(module, state, (x, y))

    x, y = (t.requires_grad_() for t in inputs(1, 2, size))
    assert torch.autograd.gradcheck(call, (x, y, *module.parameters()))


@pytest.mark.parametrize("frozen", ["student_map", "residual", "parameters"])
def test_attention_gradients_are_right_when_some_inputs_need_none(frozen) -> None:
    module = make(WindowCrossAttention, 4)
    x, y = inputs(1, 4, (3, 4))
    leaves = {"student_map": [x], "residual": [y], "parameters": list(module.parameters())}
    for group, tensors in leaves.items():
        for t in tensors:
            t.requires_grad_(group != frozen)
    wanted = [t for group, tensors in leaves.items() if group != frozen for t in tensors]
    expected = window_cross_attention(x, y, dict(module.named_parameters()))
    got, want = (
        torch.autograd.grad(out.square().sum(), wanted) for out in (module(x, y), expected)
    )
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_large_logits_do_not_overflow(scale) -> None:
    torch.manual_seed(0)
    module = WindowCrossAttention(4)
    x, y = (scale * torch.randn(1, 4, 5, 5) for _ in range(2))
    x.requires_grad_()
    out = module(x, y)
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(t.grad).all() for t in [x, *module.parameters()])
    value = F.conv2d(x, module.value.weight)
    assert out.abs().max() <= value.abs().max() * (1 + 1e-5)  # a convex combination of the values


@pytest.mark.parametrize("cls", [WindowCrossAttention, AttentionBasedFusion])
def test_batched_equals_single(cls) -> None:
    module = make(cls, 4)
    x, y = inputs(3, 4, (4, 5))
    singles = torch.cat([module(x[i : i + 1], y[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(module(x, y), singles, rtol=0, atol=1e-13)


@pytest.mark.parametrize("cls", [WindowCrossAttention, AttentionBasedFusion])
def test_memory_layout_does_not_matter_and_inputs_stay_unchanged(cls) -> None:
    module = make(cls, 4)
    x, y = inputs(2, 4, (4, 5))
    before = x.clone(), y.clone()
    expected = module(x, y)
    last = module(*(t.to(memory_format=torch.channels_last) for t in (x, y)))
    torch.testing.assert_close(last, expected, rtol=0, atol=1e-13)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


@pytest.mark.parametrize("cls", [WindowCrossAttention, AttentionBasedFusion])
def test_two_runs_are_bitwise_equal(cls) -> None:
    def run() -> list[Tensor]:
        torch.manual_seed(1)
        module = cls(8)
        x, y = torch.randn(2, 8, 9, 7), torch.randn(2, 8, 9, 7)
        out = module(x, y)
        return [out, *torch.autograd.grad(out.square().sum(), list(module.parameters()))]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


@pytest.mark.parametrize("channels", [0, 1, 5])
def test_odd_channels_raise_an_error_that_names_them(channels) -> None:
    with pytest.raises(ValueError, match=f"channels.*{channels}"):
        WindowCrossAttention(channels)


@pytest.mark.parametrize("window", [0, 2, 4, -1])
def test_an_even_window_raises_an_error_that_names_it(window) -> None:
    with pytest.raises(ValueError, match=f"window.*{window}"):
        WindowCrossAttention(4, window=window)


@pytest.mark.parametrize("cls", [WindowCrossAttention, AttentionBasedFusion])
def test_wrong_channels_or_numbers_of_maps_raise_errors_with_got_and_expected(cls) -> None:
    module = cls(4)
    good = torch.zeros(1, 4, 3, 3)
    with pytest.raises(ValueError, match=r"(?s)student_map.*6.*4"):
        module(torch.zeros(1, 6, 3, 3), good)
    with pytest.raises(ValueError, match=r"(?s)residual.*6.*4"):
        module(good, torch.zeros(1, 6, 3, 3))
    with pytest.raises(ValueError, match="residual: got 2 maps, expected 1"):
        module(good, torch.zeros(2, 4, 3, 3))
