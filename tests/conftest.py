"""Keeps a test's data sets from the tests after it: Detectron2's catalogs are of the process."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _catalogs_are_kept() -> Iterator[None]:
    data: Any = sys.modules.get("detectron2.data")  # not imported for tests that need none
    before = data and (set(data.DatasetCatalog.list()), set(data.MetadataCatalog.list()))
    yield
    if before:
        for catalog, names in zip((data.DatasetCatalog, data.MetadataCatalog), before, strict=True):
            for name in set(catalog.list()) - names:
                catalog.remove(name)
