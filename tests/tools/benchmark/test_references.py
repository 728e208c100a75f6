"""The references of the benchmark equal the project's modules in value and gradient."""

import pytest
import torch
from torch import Tensor, nn

from fam_det.core import (
    FAMOptions,
    FrequencyAttention,
    KnowledgeReview,
    WindowCrossAttention,
    hierarchical_context_loss,
)
from tests.core.core_reference import full_from_half, stored_half
from tools.benchmark.references import (
    FullSpectrumAttention,
    ReviewKDHead,
    full_plane,
    hierarchical_loss,
    unfold_fusion,
)

SIZES = [(1, 1), (4, 4), (5, 4), (4, 5), (7, 7), (1, 6), (6, 1)]


def maps(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def gradients(module: nn.Module, probe: Tensor, *inputs: Tensor) -> dict[str, Tensor]:
    """Of (output * probe).sum(), in the inputs and the parameters."""
    parameters = dict(module.named_parameters())
    wanted = [*inputs, *parameters.values()]
    values = torch.autograd.grad((module(*inputs) * probe).sum(), wanted)
    names = [*(f"input {i}" for i in range(len(inputs))), *parameters]
    return dict(zip(names, values, strict=True))


def assert_equal(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        torch.testing.assert_close(
            got[name], value, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("size", SIZES)
def test_the_full_plane_is_the_mirrored_half_plane(size) -> None:
    torch.manual_seed(0)
    height, width = size
    half = torch.randn(height, width // 2 + 1, 2, dtype=torch.complex128)
    assert torch.equal(full_plane(half, width), full_from_half(half, width))


@pytest.mark.parametrize("high_pass", ["none", "ideal", "gaussian"])
@pytest.mark.parametrize("size", SIZES)
def test_the_full_spectrum_module_equals_the_dense_one(size, high_pass) -> None:
    torch.manual_seed(0)
    fam = FrequencyAttention(2, 3, FAMOptions(high_pass=high_pass, cutoff=0.45), size=size).double()
    nn.init.normal_(fam.filter.weight)
    reference = FullSpectrumAttention(fam)
    x, probe = maps(3, 2, *size), torch.randn(3, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(reference(x), fam(x), rtol=1e-12, atol=1e-12)
    want = gradients(reference, probe, x)
    # the storage moves under SGD as the full complex filter does, so its gradient is the storage of
    # the other's
    want["filter.weight"] = stored_half(want.pop("k").permute(2, 3, 0, 1))
    got = gradients(fam, probe, x)
    assert_equal(got, {name: want[name] for name in got})


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (6, 5)])
def test_unfold_attention_equals_the_module(size) -> None:
    torch.manual_seed(0)
    attention = WindowCrossAttention(6).double()
    inputs = maps(2, 6, *size), maps(2, 6, *size)
    wanted = [*inputs, *attention.parameters()]
    probe = torch.randn(2, 6, *size, dtype=torch.float64)
    values = attention(*inputs), unfold_fusion(attention, *inputs)
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)
    got, want = (torch.autograd.grad((value * probe).sum(), wanted) for value in values)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_reviewkd_head_equals_a_review_with_its_parts() -> None:
    torch.manual_seed(0)
    review = KnowledgeReview(
        [4] * 3, 4, [4] * 3, fusion="abf", transform="conv3x3", relu=False
    ).double()
    head = ReviewKDHead(4, 3).double()
    for i, block in enumerate(review.blocks):
        head.project[i].load_state_dict(block.project.state_dict())
        head.transform[i].load_state_dict(block.transform.state_dict())
        if block.fusion is not None:
            head.gate[i].load_state_dict(block.fusion.gate.state_dict())
    levels = [maps(2, 4, s, s + 1) for s in (9, 5, 2)]
    targets = [torch.randn_like(x) for x in levels]
    results = []
    for module, loss_of in ((head, hierarchical_loss), (review, hierarchical_context_loss)):
        outputs = module(levels)
        loss = sum(loss_of(x, t) for x, t in zip(outputs, targets, strict=True))
        results.append((loss, *outputs, *torch.autograd.grad(loss, levels)))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    count = [sum(p.numel() for p in module.parameters()) for module in (head, review)]
    assert count[0] == count[1]
