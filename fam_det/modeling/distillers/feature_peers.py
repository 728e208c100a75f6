"""Peers that compare feature maps, level by level."""

from collections.abc import Collection, Iterable, Sequence
from functools import partial

from torch import Tensor, nn

from fam_det.core.checks import check_positive
from fam_det.core.losses import ValidSizes, mse_loss, pearson_loss
from fam_det.core.peer_losses import channel_wise_loss, wavelet_band_loss
from fam_det.modeling.distillers.base import DISTILLER_REGISTRY, Adapter, FeatureDistiller, Loss

from detectron2.config import CfgNode


class Adapters(nn.Module):
    """A 1x1 convolution, or the identity, for each level."""

    def __init__(self, levels: Iterable[nn.Module]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (N, C, H, W) each to (N, C_teacher, H, W)."""
        return [level(x) for level, x in zip(self.levels, maps, strict=True)]


@DISTILLER_REGISTRY.register()
class FitNetDistiller(FeatureDistiller):
    """Hints of FitNets (Romero et al., ICLR 2015) on every level.

    A 1x1 convolution and the mean squared error. FitNets trains on one hint first, then on the
    task; here, as usual in detection, both are trained together.
    """

    reads: Collection[str] | None = ()
    adapts_equal_widths = True

    @classmethod
    def build_loss(cls, distiller: CfgNode) -> Loss:
        """Returns the mean squared error."""
        return mse_loss

    @classmethod
    def build_transform(
        cls, distiller: CfgNode, student_channels: list[int], teacher_channels: list[int]
    ) -> nn.Module:
        """Returns a 1x1 convolution, or the identity, for each level."""
        return Adapters(
            Adapter(c_in, c_out, kernel_size=1)
            if c_in != c_out or cls.adapts_equal_widths
            else nn.Identity()
            for c_in, c_out in zip(student_channels, teacher_channels, strict=True)
        )


@DISTILLER_REGISTRY.register()
class PKDDistiller(FitNetDistiller):
    """PKD (Cao et al., NeurIPS 2022): Pearson correlation of the maps.

    As in the paper there is no adapter where the widths agree; otherwise a 1x1 convolution. The
    paper's weight is 6 for detectors of one family.
    """

    adapts_equal_widths = False

    @classmethod
    def build_loss(cls, distiller: CfgNode) -> Loss:
        """Returns one minus the correlation."""
        return pearson_loss


@DISTILLER_REGISTRY.register()
class CWDDistiller(PKDDistiller):
    """CWD (Shu et al., ICCV 2021): the softmax of each channel over its cells."""

    reads: Collection[str] | None = ("CWD",)

    @classmethod
    def build_loss(cls, distiller: CfgNode) -> Loss:
        """Returns the divergence at ``CWD.TEMPERATURE``.

        Raises:
            ValueError: a temperature of 0 or less.
        """
        temperature = distiller.CWD.TEMPERATURE
        check_positive("MODEL.DISTILLER.CWD.TEMPERATURE", temperature)
        return partial(channel_wise_loss, temperature=temperature)


@DISTILLER_REGISTRY.register()
class FreeKDDistiller(FitNetDistiller):
    """FreeKD (Zhang et al., CVPR 2024): high wavelet bands, without the teacher's prompts.

    The prompts weigh the cells of a band, and are learned by fine-tuning the teacher first; here
    every cell counts. As in the released configs a 1x1 convolution comes first, and the mean
    squared error of the maps is added.
    """

    reads: Collection[str] | None = ("FREEKD",)

    @classmethod
    def build_loss(cls, distiller: CfgNode) -> Loss:
        """Returns the bands' differences and ``FREEKD.MSE_WEIGHT`` times the squared error.

        Raises:
            ValueError: a negative weight.
        """
        weight = distiller.FREEKD.MSE_WEIGHT
        check_positive("MODEL.DISTILLER.FREEKD.MSE_WEIGHT", weight, zero=True)

        def loss(student: Tensor, teacher: Tensor, valid_sizes: ValidSizes | None) -> Tensor:
            bands = wavelet_band_loss(student, teacher, valid_sizes)
            return bands + weight * mse_loss(student, teacher, valid_sizes)

        return loss
