"""Frequency attention for distilling detectors (FAM-KD, Pham et al., WACV 2024) with Detectron2.

Importing this package imports nothing else: `fam_det.core` needs PyTorch alone, and whatever
registers with Detectron2 does so when `fam_det.modeling` is imported.
"""

from fam_det import detectron2_compat

__version__ = "0.1.0"

detectron2_compat.apply_before_detectron2()
