"""The images of a data set as a model takes them; one that cannot be read gives way to another."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from fam_det.data.mapper import name_of, reason_of
from fam_det.data.seeding import derive_seed, seeded

TRIES = 10


class Item(NamedTuple):
    """An image, and what was wrong with those that should have been in its place."""

    content: dict[str, Any]
    unreadable: dict[str, str]  # reason by file


class SeededItems(Dataset[Item]):
    """Mapped records of a data set, by place in the training and position in the set.

    What is random about one depends on the seed and its place alone, not on the process that maps
    it or on what that did before.

    Args:
        records: in Detectron2's format.
        mapper: from a record to what the model takes, or to None for none.
        seed: 0 or more.
    """

    def __init__(
        self, records: Sequence[dict[str, Any]], mapper: Callable[[Any], Any], seed: int
    ) -> None:
        self.records = records
        self.mapper = mapper
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> Item:
        """The image of a key, or another where it cannot be read or is mapped to None.

        Raises:
            ValueError: several in a row cannot be read.
        """
        place, index = key
        unreadable: dict[str, str] = {}
        with seeded(derive_seed(self.seed, "item", place)):
            for _ in range(TRIES):
                record = self.records[index]
                try:
                    content = self.mapper(record)
                except Exception as error:  # a broken file makes Pillow raise errors of many types
                    name = name_of(record)
                    unreadable[name] = reason_of(error, name)
                else:
                    if content is not None:
                        return Item(content, unreadable)
                index = int(np.random.randint(len(self.records)))
        raise ValueError(
            f"{TRIES} images in a row cannot be used, such as "
            + next((f"{file}: {why}" for file, why in unreadable.items()), "those mapped to None")
        )
