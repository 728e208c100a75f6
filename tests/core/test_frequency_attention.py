"""The frequency attention module against explicit DFT sums, and what the formula implies."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fam_det.core import FAMOptions, FrequencyAttention
from fam_det.core.filters import DenseFilter, SeparableFilter
from tests.core.core_reference import conv1x1, frequency_attention, full_from_half, high_pass_full

FILTERS = ["dense", "pooled", "banded", "separable"]
SIZES = [(1, 1), (1, 4), (1, 5), (4, 1), (5, 1), (2, 2), (4, 4), (5, 7), (6, 3), (8, 8), (10, 12)]


def make(
    kind: str,
    size: tuple[int, int],
    *,
    c_in: int = 2,
    c_out: int = 3,
    grid: int = 4,
    **options: object,
) -> FrequencyAttention:
    """A float64 module with every parameter drawn from a normal distribution."""
    torch.manual_seed(0)
    choice = FAMOptions(filter=kind, grid=grid, **options)
    fam = FrequencyAttention(c_in, c_out, choice, size=size).double()
    with torch.no_grad():
        for p in fam.parameters():
            p.normal_()
    return fam


def maps(n: int, c: int, size: tuple[int, int]) -> Tensor:
    return torch.randn(n, c, *size, dtype=torch.float64)


def set_identity(fam: FrequencyAttention) -> None:
    """K the identity at every frequency, gamma_global 1, gamma_local 0: FAM is then h alone."""
    _, columns, c_in, c_out, _ = fam.filter.weight.shape
    width = fam.size[1]
    with torch.no_grad():
        fam.filter.weight.zero_()
        for m in range(columns):
            own_mirror = m == 0 or 2 * m == width
            stored = 1.0 if own_mirror else 2**0.5
            fam.filter.weight[:, m, ..., 0] = stored * torch.eye(c_in, c_out, dtype=torch.float64)
        fam.gamma_global.fill_(1.0)
        fam.gamma_local.fill_(0.0)


@pytest.mark.parametrize("high_pass", ["none", "ideal", "gaussian", "butterworth"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", FILTERS)
def test_output_and_gradients_equal_explicit_dft_sums(kind, size, high_pass) -> None:
    options = {"high_pass": high_pass, "cutoff": 0.45, "order": 2}
    fam = make(kind, size, **options)
    x, probe = maps(2, 2, size).requires_grad_(), maps(2, 3, size)
    out = fam(x)
    parameters = dict(fam.named_parameters())
    got = torch.autograd.grad((out * probe).sum(), [x, *parameters.values()])

    expected = frequency_attention(x, parameters, filter=kind, **options)
    assert out.shape == expected.shape
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    want = torch.autograd.grad((expected * probe).sum(), [x, *parameters.values()])
    for name, a, b in zip(["x", *parameters], got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kind", ["banded", "separable"])
def test_one_module_without_a_size_equals_the_sums_at_every_size(kind) -> None:
    torch.manual_seed(0)
    fam = FrequencyAttention(
        2, 3, FAMOptions(filter=kind)
    ).double()  # grid 8: most of these maps are smaller
    for size in [(1, 1), (2, 3), (7, 4), (12, 9)]:
        x = maps(1, 2, size)
        expected = frequency_attention(
            x, dict(fam.named_parameters()), filter=kind, high_pass="ideal", cutoff=0.1
        )
        torch.testing.assert_close(fam(x), expected, rtol=1e-12, atol=1e-12)


def test_defaults_are_those_of_the_released_code() -> None:
    fam = FrequencyAttention(2, 3, size=4)
    assert (fam.gamma_global.shape, fam.gamma_local.shape) == ((1,), (1,))
    assert fam.gamma_global.item() == fam.gamma_local.item() == 0.5
    assert fam.filter.weight.shape == (4, 3, 2, 3, 2)
    assert fam.local.weight.shape == (3, 2, 1, 1)
    assert fam.local.bias.shape == (3,)
    names = {name for name, _ in fam.named_parameters()}
    assert names == {"gamma_global", "gamma_local", "filter.weight", "local.weight", "local.bias"}


def test_default_module_equals_the_sums_with_the_ideal_filter_at_one_tenth() -> None:
    torch.manual_seed(0)
    fam = FrequencyAttention(2, 3, size=(21, 20)).double()
    x = maps(1, 2, (21, 20))
    expected = frequency_attention(
        x, dict(fam.named_parameters()), filter="dense", high_pass="ideal", cutoff=0.1
    )
    torch.testing.assert_close(fam(x), expected, rtol=1e-11, atol=1e-12)


def test_without_its_global_branch_it_is_a_1x1_convolution() -> None:
    fam = make("dense", (5, 4))
    with torch.no_grad():
        fam.gamma_global.zero_()
        fam.gamma_local.fill_(1.0)
    x = maps(2, 2, (5, 4)).requires_grad_()
    expected = F.conv2d(x, fam.local.weight, fam.local.bias)
    torch.testing.assert_close(fam(x), expected, rtol=0, atol=1e-14)
    got, want = (torch.autograd.grad(y.square().sum(), x)[0] for y in (fam(x), expected))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_identity_filter_returns_the_map(size) -> None:
    fam = make("dense", size, c_in=3, c_out=3, high_pass="none")
    set_identity(fam)
    x = maps(2, 3, size)
    torch.testing.assert_close(fam(x), x, rtol=0, atol=1e-13)


@pytest.mark.parametrize("high_pass", ["ideal", "gaussian", "butterworth"])
@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 6), (5, 1)])
def test_energy_is_that_of_the_frequencies_that_pass(size, high_pass) -> None:
    """Parseval: sum of y^2 = sum over the full plane of h^2 |X|^2 / (H W)."""
    fam = make("dense", size, c_in=1, c_out=1, high_pass=high_pass, cutoff=0.45)
    set_identity(fam)
    x = maps(1, 1, size)
    h = high_pass_full(high_pass, *size, 0.45)
    expected = (h**2 * torch.fft.fft2(x).abs() ** 2).sum() / (size[0] * size[1])
    torch.testing.assert_close(fam(x).square().sum(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 1)])
def test_energy_of_the_global_branch_follows_parseval_for_any_filter(size) -> None:
    fam = make("dense", size, c_in=1, c_out=1, high_pass="none")
    with torch.no_grad():
        fam.gamma_global.fill_(1.0)
        fam.gamma_local.zero_()
    x = maps(1, 1, size)
    k = full_from_half(fam.filter.spectrum(*size), size[1])[..., 0, 0]
    expected = ((k * torch.fft.fft2(x)).abs() ** 2).sum() / (size[0] * size[1])
    torch.testing.assert_close(fam(x).square().sum(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("high_pass", ["ideal", "gaussian", "butterworth"])
@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 4)])
def test_a_constant_map_passes_through_the_local_branch_alone(kind, high_pass, size) -> None:
    fam = make(kind, size, high_pass=high_pass)
    x = torch.tensor([2.0, -3.0], dtype=torch.float64)[None, :, None, None].expand(1, 2, *size)
    expected = fam.gamma_local * conv1x1(x, fam.local.weight, fam.local.bias)
    torch.testing.assert_close(fam(x), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", FILTERS)
def test_without_high_pass_a_constant_map_meets_the_matrix_at_dc(kind) -> None:
    fam = make(kind, (6, 5), high_pass="none")
    c = torch.tensor([2.0, -3.0], dtype=torch.float64)
    dc = fam.filter.spectrum(6, 5)[0, 0]
    expected = fam.gamma_global * (c @ dc.real)
    expected = expected + fam.gamma_local * (fam.local.weight.flatten(1) @ c + fam.local.bias)
    out = fam(c[None, :, None, None].expand(1, 2, 6, 5))
    expected = expected[None, :, None, None].expand_as(out)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("high_pass", ["none", "ideal", "gaussian", "butterworth"])
def test_a_1x1_map_meets_two_matrices_and_no_high_pass(kind, high_pass) -> None:
    fam = make(kind, (1, 1), high_pass=high_pass, cutoff=1.0)
    x = maps(3, 2, (1, 1))
    dc = fam.filter.spectrum(1, 1)[0, 0].real
    expected = fam.gamma_global * (x[:, :, 0, 0] @ dc)
    expected = expected + fam.gamma_local * F.linear(
        x[:, :, 0, 0], fam.local.weight.flatten(1), fam.local.bias
    )
    torch.testing.assert_close(fam(x)[:, :, 0, 0], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", ["dense", "banded", "separable"])  # pooling cells do not shift
@pytest.mark.parametrize("size", [(6, 8), (5, 7), (4, 1)])
def test_circular_shifts_commute_with_the_module(kind, size) -> None:
    fam = make(kind, size)
    x = maps(2, 2, size)
    for shift in [(1, 0), (0, 1), (-2, 3)]:
        shifted_after = torch.roll(fam(x), shift, (2, 3))
        torch.testing.assert_close(
            fam(torch.roll(x, shift, (2, 3))), shifted_after, rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("kind", FILTERS)
def test_the_module_is_affine_in_the_map(kind) -> None:
    fam = make(kind, (5, 6))
    x, y, zero = maps(1, 2, (5, 6)), maps(1, 2, (5, 6)), torch.zeros(1, 2, 5, 6).double()
    left = fam(2 * x - 3 * y) - fam(zero)
    right = 2 * (fam(x) - fam(zero)) - 3 * (fam(y) - fam(zero))
    torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("size", [(3, 4), (4, 3), (1, 1)])
def test_gradcheck_in_map_and_parameters(kind, size) -> None:
    fam = make(kind, size, grid=2, high_pass="gaussian", cutoff=0.5)
    names = [name for name, _ in fam.named_parameters()]

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(fam, state, (x,))

    inputs = (maps(1, 2, size).requires_grad_(), *fam.parameters())
    assert torch.autograd.gradcheck(call, inputs)


@pytest.mark.parametrize("kind", FILTERS)
def test_batched_equals_single(kind) -> None:
    fam = make(kind, (5, 6))
    x = maps(3, 2, (5, 6))
    singles = torch.cat([fam(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(fam(x), singles, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", FILTERS)
def test_memory_layout_of_the_map_does_not_matter(kind) -> None:
    fam = make(kind, (5, 6))
    x = maps(2, 2, (5, 6))
    for same in (x.to(memory_format=torch.channels_last), x.mT.contiguous().mT):
        torch.testing.assert_close(fam(same), fam(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", FILTERS)
def test_the_map_is_not_changed_in_place(kind) -> None:
    fam = make(kind, (5, 6))
    x = maps(2, 2, (5, 6))
    before = x.clone()
    fam(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", FILTERS)
def test_two_runs_are_bitwise_equal(kind) -> None:
    def run() -> list[Tensor]:
        torch.manual_seed(3)
        fam = FrequencyAttention(4, 6, FAMOptions(filter=kind), size=(9, 10))
        optimizer = torch.optim.SGD(fam.parameters(), lr=0.1, momentum=0.9)
        x = torch.randn(4, 4, 9, 10)
        for _ in range(3):
            optimizer.zero_grad()
            fam(x).square().mean().backward()
            optimizer.step()
        return [fam(x), *fam.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


@pytest.mark.parametrize("kind", FILTERS)
def test_a_saved_state_gives_the_same_output_in_a_new_module(kind) -> None:
    fam = make(kind, (5, 6))
    other = FrequencyAttention(2, 3, FAMOptions(filter=kind, grid=4), size=(5, 6)).double()
    other.load_state_dict(fam.state_dict())
    x = maps(2, 2, (5, 6))
    assert torch.equal(other(x), fam(x))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", FILTERS)
def test_a_non_finite_input_is_not_hidden_and_stays_in_its_image(kind, bad) -> None:
    fam = make(kind, (4, 4))
    x = maps(2, 2, (4, 4))
    x[0, 0, 1, 1] = bad
    out = fam(x)
    assert not torch.isfinite(out[0]).any()
    torch.testing.assert_close(out[1:], fam(x[1:]), rtol=0, atol=1e-13)


def test_errors_name_the_argument_with_got_and_expected() -> None:
    with pytest.raises(ValueError, match="size"):
        FrequencyAttention(2, 3, FAMOptions(filter="dense"))
    with pytest.raises(ValueError, match="size"):
        FrequencyAttention(2, 3, size=(0, 4))
    with pytest.raises(ValueError, match="(?s)filter.*sparse.*banded"):
        FrequencyAttention(2, 3, FAMOptions(filter="sparse"), size=4)
    with pytest.raises(ValueError, match="(?s)high_pass.*low.*ideal"):
        FrequencyAttention(2, 3, FAMOptions(high_pass="low"), size=4)
    with pytest.raises(ValueError, match="cutoff.*2"):
        FrequencyAttention(2, 3, FAMOptions(cutoff=2.0), size=4)
    with pytest.raises(ValueError, match="order.*0"):
        FrequencyAttention(2, 3, FAMOptions(high_pass="butterworth", order=0), size=4)
    for channels in ((0, 3), (2, 0)):
        with pytest.raises(ValueError, match=r"(in|out)_channels.*0"):
            FrequencyAttention(*channels, size=4)


@pytest.mark.parametrize("kind", FILTERS)
def test_a_map_of_wrong_channels_raises_an_error_that_names_them(kind) -> None:
    fam = make(kind, (4, 4))
    with pytest.raises(ValueError, match=r"(?s)in_channels.*5.*2"):
        fam(maps(1, 5, (4, 4)))
    with pytest.raises(ValueError):
        fam(torch.zeros(2, 4, 4, dtype=torch.float64))


@pytest.mark.parametrize("size", [(4, 5), (5, 4), (8, 8), (1, 1)])
def test_a_map_of_another_size_than_dense_raises_an_error_with_got_and_expected(size) -> None:
    fam = make("dense", (4, 4))
    with pytest.raises(ValueError, match=rf"(?s)size.*{size[0]}.*{size[1]}.*4.*4"):
        fam(maps(1, 2, size))


def test_one_branch_alone_is_its_term_of_the_sum() -> None:
    size = (6, 5)
    both = make("separable", size)
    x = maps(2, 2, size)
    terms = []
    for branch in ("global", "local"):
        torch.manual_seed(0)
        alone = FrequencyAttention(
            2, 3, FAMOptions(filter="separable", grid=4, branches=[branch])
        ).double()
        missing, unexpected = alone.load_state_dict(both.state_dict(), strict=False)
        other = "local" if branch == "global" else "global"
        assert not missing
        assert f"gamma_{other}" in unexpected
        assert getattr(alone, f"gamma_{other}").item() == 0.0
        alone(x).sum().backward()
        assert all(p.grad is not None for p in alone.parameters())
        terms.append(alone(x))
    torch.testing.assert_close(terms[0] + terms[1], both(x))


@pytest.mark.parametrize("branches", [[], ["glocal"], ["local", "other"]])
def test_unknown_branches_are_named(branches: list[str]) -> None:
    with pytest.raises(ValueError, match="branches: got .*, expected one or both of"):
        FrequencyAttention(2, 3, FAMOptions(filter="separable", branches=branches))


@pytest.mark.parametrize("kind", FILTERS)
def test_identity_start_adds_the_map_to_the_global_branch(kind) -> None:
    fam = FrequencyAttention(
        3, 3, FAMOptions(filter=kind, grid=4, init="identity"), size=6
    ).double()
    x = maps(2, 3, (6, 6))
    without = FrequencyAttention(
        3, 3, FAMOptions(filter=kind, grid=4, branches=["global"]), size=6
    ).double()
    without.load_state_dict(fam.state_dict(), strict=False)
    torch.testing.assert_close(fam(x), without(x) + x)


@pytest.mark.parametrize("size", [(6, 6), (5, 8)])
@pytest.mark.parametrize("kind", ["dense", "banded", "separable"])
def test_identity_start_of_the_global_branch_alone_takes_the_low_frequencies_out(
    kind, size
) -> None:
    options = FAMOptions(["global"], "identity", filter=kind, grid=4, cutoff=0.2)
    fam = FrequencyAttention(3, 3, options, size=size)
    x = maps(2, 3, size)
    mean = x.mean((2, 3), keepdim=True)  # all that is below 0.2 on maps of these sizes
    torch.testing.assert_close(fam(x.float()).double(), x - mean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"branches": ["global"], "filter": "pooled"},
        {"branches": ["global"]},
        {"init": "orthogonal"},
    ],
)
def test_an_impossible_start_is_named(options: dict[str, object]) -> None:
    out_channels = 3 if options.get("filter") == "pooled" else 4
    with pytest.raises(ValueError, match="init: got '(identity|orthogonal)', expected"):
        FrequencyAttention(3, out_channels, FAMOptions(**{"init": "identity"} | options))


def test_without_a_filter_the_size_decides() -> None:
    assert isinstance(FrequencyAttention(2, 3, size=4).filter, DenseFilter)
    assert isinstance(FrequencyAttention(2, 3).filter, SeparableFilter)


def test_banded_says_that_it_is_dense_on_a_single_frequency(caplog) -> None:
    fam = FrequencyAttention(2, 3, FAMOptions(filter="banded"), size=1)
    assert isinstance(fam.filter, DenseFilter)
    assert "'banded' is 'dense' on a 1x1 map" in caplog.text
