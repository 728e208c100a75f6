"""The synchronised BatchNorm in half precision, as it runs under autocast."""

import pytest
import torch
import torch.distributed

from fam_det.modeling.sync_batch_norm import SyncBatchNorm

from detectron2.layers import batch_norm
from detectron2.utils import comm


@pytest.fixture
def _two_equal_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process has the same maps."""
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(batch_norm, "differentiable_all_reduce", lambda x: 2 * x)


@pytest.mark.usefixtures("_two_equal_processes")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_large_mean_does_not_swallow_the_variance(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = (8.0 + 0.25 * torch.randn(2, 3, 8, 8)).to(dtype)
    expected = torch.nn.functional.batch_norm(x.float(), None, None, training=True)
    out = SyncBatchNorm(3)(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=1e-2, atol=1e-2)
