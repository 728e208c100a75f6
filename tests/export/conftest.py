"""Fixtures of other packages' tests that these share."""

from tests.tools.conftest import cells

__all__ = ["cells"]
