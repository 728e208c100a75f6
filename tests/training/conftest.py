"""Fixtures of other packages' tests that these share."""

from tests.classification.conftest import make_cfg
from tests.tools.conftest import cells

__all__ = ["cells", "make_cfg"]
