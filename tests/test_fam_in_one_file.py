"""docs/fam_in_one_file.py is the package's method: same parameters, same outputs."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from fam_det.core import KnowledgeReview


@pytest.fixture(scope="module")
def one_file() -> ModuleType:
    spec = importlib.util.spec_from_file_location("one", Path("docs/fam_in_one_file.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def full_spectrum(half: Tensor, width: int) -> Tensor:
    """(H, V, C_in, C_out) of the half plane -> (C_out, C_in, H, W) by Hermitian symmetry."""
    k = half.permute(3, 2, 0, 1)
    mirrored = torch.roll(k.flip(2, 3), 1, 2).conj()  # columns V-1 .. 0 at rows -u
    start = 1 if width % 2 == 0 else 0
    return torch.cat([k, mirrored[..., start : start + width - k.shape[3]]], dim=3)


def copy_parameters(review: KnowledgeReview, plain: nn.Module) -> None:
    """From the package's modules to those of the one file."""
    for i, block in enumerate(review.blocks):
        plain.projects[i].load_state_dict(block.project.state_dict())
        plain.transforms[i][1].load_state_dict(block.transform[1].state_dict())
        fam, plain_fam = block.transform[0], plain.transforms[i][0]
        size = plain.sizes[i]
        plain_fam.K.data = full_spectrum(fam.filter.spectrum(size, size), size).detach()
        plain_fam.conv.load_state_dict(fam.local.state_dict())
        if block.fusion is not None:
            attention = plain.fusions[i]
            for name in ("query", "key", "value"):
                getattr(attention, name).load_state_dict(getattr(block.fusion, name).state_dict())
            attention.rows.data = block.fusion.row_offset.data[:, :, None]
            attention.columns.data = block.fusion.column_offset.data[:, None, :]


def test_one_file_equals_the_package(one_file: ModuleType) -> None:
    torch.manual_seed(0)
    sizes, student, teacher = [21, 8, 1], [6, 8, 10], [5, 7, 9]
    review = KnowledgeReview(student, 8, teacher, sizes=sizes)
    plain = one_file.FAMKD(student, 8, teacher, sizes)
    copy_parameters(review, plain)
    maps = [torch.randn(3, c, s, s) for c, s in zip(student, sizes, strict=True)]
    for ours, theirs in zip(review(maps), plain(maps), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_example_learns(one_file: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    one_file.main()
    lines = capsys.readouterr().out.split()
    losses = [float(lines[i + 1]) for i, word in enumerate(lines) if word == "loss"]
    assert losses[-1] < losses[0]
