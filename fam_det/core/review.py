"""The two ways to pair feature maps of student and teacher: knowledge review, layer to layer.

FAM-KD, FAM + ReviewKD and ReviewKD are one structure with different parts:

=============== =================== =============
method          fusion              transform
=============== =================== =============
FAM-KD          ``cross_attention`` ``fam``
FAM + ReviewKD  ``abf``             ``fam``
ReviewKD        ``abf``             ``conv3x3``
=============== =================== =============

Legend: N batch, C channels, H and W map size. Maps are listed shallow (large) to deep (small).
"""

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from fam_det.core.checks import check_channels, check_choice
from fam_det.core.frequency_attention import FAMOptions, FrequencyAttention, Size, as_height_width
from fam_det.core.fusion import AttentionBasedFusion, WindowCrossAttention
from fam_det.core.kernels.window_attention import resize_nearest

FUSIONS = ("cross_attention", "abf", "none")
TRANSFORMS = ("fam", "conv3x3")


class BatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` that normalises a single value per channel by its running statistics.

    PyTorch raises an error for one, as its variance is zero. The deepest level of a small image has
    no more, nor has the pooled feature with one image per device.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalises maps (N, C, H, W)."""
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


class ReviewBlock(nn.Module):
    """One stage of the review: project the student map, fuse in the residual, transform.

    Args:
        student_channels: of this stage's student map.
        residual_channels: of the residual from the deeper stage, None for the deepest stage.
        mid_channels: width of the fused map.
        teacher_channels: of this stage's teacher map.
        fusion: one of ``FUSIONS``.
        transform: the module from ``mid_channels`` to ``teacher_channels``.
        size: (H, W) of the teacher's map, None to keep the student's.
    """

    def __init__(
        self,
        student_channels: int,
        residual_channels: int | None,
        mid_channels: int,
        *,
        fusion: str,
        transform: nn.Module,
        size: tuple[int, int] | None,
    ) -> None:
        super().__init__()
        self.student_channels = student_channels
        self.size = size
        # ReviewKD always projects, without a ReLU; FAM-KD only where widths differ, with one
        relu = fusion != "abf"
        same = student_channels == mid_channels and fusion != "abf"
        self.project = nn.Identity() if same else conv_norm(student_channels, mid_channels, relu)
        self.project_residual: nn.Module = nn.Identity()
        self.fusion: WindowCrossAttention | AttentionBasedFusion | None = None
        if residual_channels is not None and fusion != "none":
            if residual_channels != mid_channels:
                self.project_residual = conv_norm(residual_channels, mid_channels, relu)
            attends = fusion == "cross_attention"
            self.fusion = (WindowCrossAttention if attends else AttentionBasedFusion)(mid_channels)
        self.transform = transform

    def forward(self, student_map: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Reviews one stage.

        Args:
            student_map: (N, C_student, H, W).
            residual: (N, C_residual, H', W') from the deeper stage, None at the deepest.

        Returns:
            The map to compare with the teacher's, and the residual for the next stage.

        Raises:
            ValueError: a student map of other channels.
        """
        if student_map.dim() != 4 or student_map.shape[1] != self.student_channels:
            raise ValueError(
                f"student_map: got shape {tuple(student_map.shape)}, "
                f"expected (N, {self.student_channels}, H, W)"
            )
        x = self.project(student_map)
        # The fused map, not the transformed one, goes up: each stage's FAM serves its teacher map.
        if self.fusion is not None and residual is not None:
            x = self.fusion(x, self.project_residual(residual))
        if self.size is not None:
            x = resize_nearest(x, self.size)
        return self.transform(x), x


class KnowledgeReview(nn.Module):
    """Enhanced knowledge review of FAM-KD; with other parts FAM + ReviewKD and ReviewKD.

    Args:
        student_channels: C of each student map, shallow to deep.
        mid_channels: width of each fused map; an int for one width at all stages.
        teacher_channels: C of each teacher map.
        sizes: size of each teacher map, an int or (H, W); None takes maps of any size, which are
            then transformed at the student's size.
        fusion: one of ``FUSIONS``.
        transform: one of ``TRANSFORMS``.
        relu: end every stage in a ReLU. None does as published: after FAM, not after the 3x3
            convolution. Turn it off for signed teacher maps, such as those of an FPN.
        fam: options of the frequency attention modules.

    Raises:
        ValueError: lists of different lengths, or an unknown option; the message names it.
    """

    def __init__(
        self,
        student_channels: Sequence[int],
        mid_channels: int | Sequence[int],
        teacher_channels: Sequence[int],
        *,
        sizes: Sequence[Size] | None = None,
        fusion: str = "cross_attention",
        transform: str = "fam",
        relu: bool | None = None,
        fam: FAMOptions | None = None,
    ) -> None:
        super().__init__()
        check_choice("fusion", fusion, FUSIONS)
        stages = len(student_channels)
        mids = [mid_channels] * stages if isinstance(mid_channels, int) else list(mid_channels)
        all_sizes = per_stage_sizes(sizes, stages)
        check_lengths(stages, mid_channels=mids, teacher_channels=teacher_channels)
        self.blocks = nn.ModuleList(
            ReviewBlock(
                student_channels[i],
                mids[i + 1] if i + 1 < stages else None,
                mids[i],
                fusion=fusion,
                transform=build_transform(
                    transform, mids[i], teacher_channels[i], all_sizes[i], relu, fam
                ),
                size=all_sizes[i],
            )
            for i in range(stages)
        )

    def forward(self, student_maps: Sequence[Tensor]) -> list[Tensor]:
        """Reviews the student's maps from the deepest up.

        Args:
            student_maps: (N, C, H, W) each, shallow to deep.

        Returns:
            Maps to compare with the teacher's, (N, C_teacher, H, W) each, shallow to deep.

        Raises:
            ValueError: another number of maps, or a map of wrong channels or size.
        """
        check_lengths(len(self.blocks), student_maps=student_maps)
        outputs: list[Tensor] = []
        residual: Tensor | None = None  # the deepest stage has nothing to review
        for block, student_map in zip(reversed(self.blocks), reversed(student_maps), strict=True):
            output, residual = cast(ReviewBlock, block)(student_map, residual)
            outputs.append(output)
        return outputs[::-1]


class LayerToLayer(nn.Module):
    """One transform for each level, no fusion: the layer-to-layer variant of FAM-KD.

    Args:
        student_channels: C of each student map.
        teacher_channels: C of each teacher map.
        sizes: size of each teacher map, an int or (H, W), to which the student's is resized by the
            nearest neighbour; None takes maps of any size.
        transform, relu, fam: as of :class:`KnowledgeReview`.

    Raises:
        ValueError: lists of different lengths, or an unknown option; the message names it.
    """

    def __init__(
        self,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        *,
        sizes: Sequence[Size] | None = None,
        transform: str = "fam",
        relu: bool | None = None,
        fam: FAMOptions | None = None,
    ) -> None:
        super().__init__()
        check_lengths(len(student_channels), teacher_channels=teacher_channels)
        self.sizes = per_stage_sizes(sizes, len(student_channels))
        self.transforms = nn.ModuleList(
            build_transform(transform, *channels, relu, fam)
            for channels in zip(student_channels, teacher_channels, self.sizes, strict=True)
        )

    def forward(self, student_maps: Sequence[Tensor]) -> list[Tensor]:
        """Transforms maps (N, C, H, W) each to (N, C_teacher, H, W), in the same order.

        Raises:
            ValueError: another number of maps, or a map of wrong channels.
        """
        check_lengths(len(self.transforms), student_maps=student_maps)
        return [
            transform(x if size is None else resize_nearest(x, size))
            for transform, x, size in zip(self.transforms, student_maps, self.sizes, strict=True)
        ]


def build_transform(
    transform: str,
    in_channels: int,
    out_channels: int,
    size: tuple[int, int] | None,
    relu: bool | None,
    fam: FAMOptions | None,
) -> nn.Sequential:
    """Returns FAM or a 3x3 convolution, then BatchNorm and, if asked, a ReLU."""
    check_choice("transform", transform, TRANSFORMS)
    body: nn.Module
    if transform == "fam":
        body = FrequencyAttention(in_channels, out_channels, fam, size=size)
    else:
        check_channels(in_channels=in_channels, out_channels=out_channels)
        body = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_uniform_(body.weight, a=1)
    ends_in_relu = transform == "fam" if relu is None else relu
    return nn.Sequential(body, BatchNorm(out_channels), *([nn.ReLU()] if ends_in_relu else []))


def conv_norm(in_channels: int, out_channels: int, relu: bool) -> nn.Sequential:
    """Returns a 1x1 convolution, BatchNorm and, if asked, a ReLU."""
    check_channels(in_channels=in_channels, out_channels=out_channels)
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, BatchNorm(out_channels), *([nn.ReLU()] if relu else []))


def per_stage_sizes(sizes: Sequence[Size] | None, stages: int) -> list[tuple[int, int] | None]:
    """Returns (H, W) of each stage, None where any size is taken."""
    if sizes is None:
        return [None] * stages
    check_lengths(stages, sizes=sizes)
    return [as_height_width(size) for size in sizes]


def check_lengths(stages: int, **lists: Sequence[object]) -> None:
    """Raises a ValueError that names the first list without one entry for each stage."""
    if stages < 1:
        raise ValueError("student_channels: got no stages, expected at least one")
    for name, values in lists.items():
        if len(values) != stages:
            raise ValueError(f"{name}: got {len(values)} entries, expected {stages}, one a stage")
