"""MobileNetV2, from torchvision, as a Detectron2 backbone."""

from collections.abc import Sequence
from functools import partial

import torchvision
from torch import Tensor, nn

from fam_det.core.checks import check_choice, check_option, check_positive
from fam_det.modeling.backbones.fpn import STRIDES, check_features, check_rgb, register_with_fpn

from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec, get_norm
from detectron2.modeling import Backbone

# Last block of each stage in torchvision's ``features``; the layers after res5 are for the
# classifier only.
STAGE_ENDS = {"res2": 3, "res3": 6, "res4": 13, "res5": 17}
# Detectron2's that need no other number of channels than they get.
NORMS = ("FrozenBN", "BN", "SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")


class MobileNetV2(Backbone):
    """MobileNetV2, Sandler et al., CVPR 2018; torchvision's network and parameter names.

    Args:
        width_mult: multiplier of all channels, more than 0.
        norm: one of ``NORMS``.
        out_features: any of "res2", "res3", "res4", "res5", of stride 4, 8, 16, 32.
        freeze_at: as ``MODEL.BACKBONE.FREEZE_AT``: 1 freezes the stem, 2 the blocks up to res2 too,
            ...
    """

    def __init__(
        self,
        *,
        width_mult: float = 1.0,
        norm: str = "FrozenBN",
        out_features: Sequence[str] = tuple(STAGE_ENDS),
        freeze_at: int = 0,
    ) -> None:
        super().__init__()
        check_positive("MODEL.MOBILENETV2.WIDTH_MULT", width_mult)
        check_choice("MODEL.MOBILENETV2.NORM", norm, NORMS)
        check_features("MODEL.MOBILENETV2.OUT_FEATURES", out_features)
        last = max(STAGE_ENDS[name] for name in out_features)
        network = torchvision.models.mobilenet_v2(
            width_mult=width_mult, norm_layer=partial(get_norm, norm)
        )
        self.features: nn.Sequential = network.features[: last + 1]
        self._out_features = list(out_features)
        self._out_feature_strides = {name: STRIDES[name] for name in out_features}
        self._out_feature_channels = {
            name: network.features[STAGE_ENDS[name]].out_channels for name in out_features
        }
        self._freeze(freeze_at)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the maps of images (N, 3, H, W) by name: (N, C, H / stride, W / stride) each."""
        names = {STAGE_ENDS[name]: name for name in self._out_features}
        outputs = {}
        for index, block in enumerate(self.features):
            x = block(x)
            if index in names:
                outputs[names[index]] = x
        return outputs

    def _freeze(self, freeze_at: int) -> None:
        ends = [-1, 1, *STAGE_ENDS.values()]
        is_stage = 0 <= freeze_at < len(ends)
        check_option("MODEL.BACKBONE.FREEZE_AT", freeze_at, is_stage, f"0 to {len(ends) - 1}")
        last = ends[freeze_at]
        for index in range(min(last + 1, len(self.features))):
            block = self.features[index].requires_grad_(False)
            self.features[index] = FrozenBatchNorm2d.convert_frozen_batchnorm(block)


@register_with_fpn
def build_mobilenet_v2_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> MobileNetV2:
    """Builds the MobileNetV2 of ``cfg.MODEL.MOBILENETV2``."""
    check_rgb(input_shape, "MobileNetV2")
    return MobileNetV2(
        width_mult=cfg.MODEL.MOBILENETV2.WIDTH_MULT,
        norm=cfg.MODEL.MOBILENETV2.NORM,
        out_features=cfg.MODEL.MOBILENETV2.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
