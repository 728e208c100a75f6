"""Detectron2's LazyConfig (configs in Python): the distilled detector as a node, and its training.

Modules are imported by their own names: ``detector`` serves ``fam_det.modeling``, ``model`` and
``engine`` are on top of it.
"""

from fam_det import detectron2_compat

detectron2_compat.apply()
