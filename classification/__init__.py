"""FAM-KD for image classifiers: models, data and recipes on the core that the detectors use."""

import fam_det  # noqa: F401  before Detectron2: it makes old releases importable
