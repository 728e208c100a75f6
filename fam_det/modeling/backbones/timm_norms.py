"""What the BatchNorms of a timm network become in a detector."""

import logging
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fam_det.modeling.backbones.timm_networks import import_timm

from detectron2.layers import FrozenBatchNorm2d

logger = logging.getLogger(__name__)

NORMS = ("FrozenBN", "BN", "SyncBN")


def set_norm(name: str, network: nn.Module, norm: str) -> nn.Module:
    """Turn every BatchNorm of a timm network into another; the state-dict keys stay.

    Raises:
        ValueError: a norm that is not in ``NORMS``.
    """
    if norm not in NORMS:
        raise ValueError(f"MODEL.TIMM.NORM: got {norm!r}, expected one of {NORMS}")
    if not any(isinstance(module, _BatchNorm) for module in network.modules()):
        logger.warning("MODEL.TIMM.NORM: %s has no BatchNorm, %r changes nothing.", name, norm)
    if norm == "SyncBN":
        synchronised: nn.Module = import_timm().layers.convert_sync_batchnorm(network)
        return synchronised
    if norm == "FrozenBN":
        freeze_norms(network)
    return network


def freeze_norms(network: nn.Module, owned: Sequence[nn.Parameter] | None = None) -> None:
    """Exchange BatchNorms for FrozenBN.

    Args:
        network: below which they are.
        owned: only those whose weight is one of these.
    """
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and (
                owned is None or any(child.weight is x for x in owned)
            ):
                parent.add_module(name, _frozen(child))


def _frozen(norm: _BatchNorm) -> FrozenBatchNorm2d:
    frozen = FrozenBatchNormAct2d if hasattr(norm, "act") else FrozenBatchNorm2d
    new = frozen(norm.num_features, norm.eps)
    new.load_state_dict(dict(norm.state_dict()), strict=False)
    if hasattr(norm, "act"):
        new.drop, new.act = norm.drop, norm.act
    return new


class FrozenBatchNormAct2d(FrozenBatchNorm2d):
    """FrozenBN with the activation that timm's BatchNormAct2d has inside."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and activate maps (N, C, H, W)."""
        return self.act(self.drop(super().forward(x)))
