"""FAM-KD for image classifiers: models, data and recipes on the core that the detectors use."""

from fam_det import detectron2_compat

detectron2_compat.apply()
