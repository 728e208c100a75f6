"""What a network shows to a distiller: its stage maps, its pooled feature and its logits.

Legend: N batch, C channels, H and W map size, K classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """Feature maps of each stage, the stem first, and what follows them.

    Attributes:
        maps: (N, C, H, W) each, shallow to deep, as the stage hands them on: after its last ReLU,
            except in the pre-activation networks (WRN), whose stages end without one.
        preactivation: the same stages before the last ReLU (WRN: after the next batch norm, before
            its ReLU). The stem's entry equals ``maps[0]`` where a network has no such map of it.
        pooled: (N, C), what the classifier sees.
        logits: (N, K).
    """

    maps: Sequence[Tensor]
    preactivation: Sequence[Tensor]
    pooled: Tensor
    logits: Tensor
