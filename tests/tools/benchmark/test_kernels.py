"""Each kernel has the value and the gradients of the plain operators beside it."""

import pytest
import torch

from tools.benchmark import kernels
from tools.benchmark.kernels import cases


def test_every_kernel_equals_its_plain_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of odd and even sides, in float64 but for the one in half precision."""
    monkeypatch.setattr(kernels, "SHAPES", ((1, 4, 6, 9), (2, 4, 8, 8)))
    monkeypatch.setattr(kernels, "modules", lambda device: ())  # in test_references.py
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        found = list(cases("cpu"))
    finally:
        torch.set_default_dtype(before)
    assert len(found) == 2 * 7 + 2
    for case in found:
        half = "bfloat16" in case.name
        torch.testing.assert_close(
            case.project(),
            case.reference(),
            rtol=5e-2 if half else 1e-9,
            atol=1e-1 if half else 1e-9,
            msg=lambda text, name=case.name: f"{name}: {text}",
        )
