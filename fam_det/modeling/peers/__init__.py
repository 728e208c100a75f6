"""Other methods, with the same key as FAM: ``MODEL.DISTILLER.NAME``.

They share the levels, the weight and the warm-up of ``MODEL.DISTILLER``. A loss weight is no
property of a method alone: those of the papers are for their own reductions and schedules.
"""

from fam_det.modeling.peers.imitation import FGFIDistiller
from fam_det.modeling.peers.maps import (
    CWDDistiller,
    FitNetDistiller,
    FreeKDDistiller,
    PKDDistiller,
)
from fam_det.modeling.peers.roi_logits import DKDDistiller

__all__ = [
    "CWDDistiller",
    "DKDDistiller",
    "FGFIDistiller",
    "FitNetDistiller",
    "FreeKDDistiller",
    "PKDDistiller",
]
