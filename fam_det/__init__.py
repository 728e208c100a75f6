"""Frequency attention for distilling detectors (FAM-KD, Pham et al., WACV 2024) with Detectron2.

Importing this package imports nothing else: `fam_det.core` needs PyTorch alone, and whatever
registers with Detectron2 does so when `fam_det.modeling` is imported.
"""

__version__ = "0.1.0"
