"""Maps the images of a data set to a model's inputs, and replaces unreadable images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from fam_det.data.images import error_reason, open_checked_image
from fam_det.data.seeding import derive_seed, seeded

from detectron2.data import DatasetMapper
from detectron2.utils.file_io import PathManager

MAX_TRIES = 10
Record = dict[str, Any]  # in Detectron2's format


class CheckedMapper:
    """A mapper that checks the header of an image before the image is decoded.

    A user's own mapper may read files of any kind, such as ``.npy``, and is called directly.
    """

    def __init__(self, mapper: Callable[[Record], Any]) -> None:
        self.mapper = mapper
        reader: Any = mapper
        while hasattr(reader, "mapper"):  # a TwoSizeMapper, an IgnoringMapper
            reader = reader.mapper
        self.is_detectron2s = type(reader).__call__ is DatasetMapper.__call__

    def __call__(self, record: Record) -> Any:
        """Maps a record; the header's check takes a hundredth of the time."""
        if self.is_detectron2s and "file_name" in record:
            with PathManager.open(record["file_name"], "rb") as file, open_checked_image(file):
                pass
        return self.mapper(record)


class NamingMapper(CheckedMapper):
    """A mapper of an evaluation, which needs every image: any error names the file."""

    def __call__(self, record: Record) -> Any:
        """Maps a record; raises a ValueError of one line if its image cannot be used."""
        try:
            return super().__call__(record)
        except Exception as error:  # a broken file makes Pillow raise errors of many types
            name = _name(record)
            raise ValueError(
                f"{name}: {error_reason(error, name)}; an evaluation needs every image"
            ) from error


class Sample(NamedTuple):
    """A mapped image or a batch, and the unreadable images that it replaces."""

    content: Any
    unreadable: dict[str, str]  # reason by file


@dataclass(eq=False)
class SeededDataset(Dataset[Sample]):
    """Mapped records of a data set, by place in the training and position in the set.

    The random draws of a sample depend only on the seed, the purpose and its place, not on the
    process that maps it or on that process's earlier work.
    """

    records: Any  # of the images
    mapper: Callable[[Any], Any]  # from a record to the model's input, None to skip the record
    seed: int  # 0 or more
    purpose: str = "item"  # of the random numbers, for ``derive_seed``

    def __getitem__(self, key: tuple[int, ...]) -> Sample:
        """Returns the image of a key, or another one if it is unreadable or mapped to None.

        A key is the place, of one number or more, and then the position.
        """
        *place, index = key
        unreadable: dict[str, str] = {}
        with seeded(derive_seed(self.seed, self.purpose, *place)):
            for _ in range(MAX_TRIES):
                record = self.records[index]
                try:
                    content = self.mapper(record)
                except Exception as error:  # a broken file makes Pillow raise errors of many types
                    name = _name(record)
                    unreadable[name] = error_reason(error, name)
                else:
                    if content is not None:
                        return Sample(content, unreadable)
                index = int(np.random.randint(len(self.records)))
        raise ValueError(
            f"{MAX_TRIES} images in a row cannot be used, such as "
            + next((f"{file}: {why}" for file, why in unreadable.items()), "those mapped to None")
        )


def _name(record: Record) -> str:
    return str(record.get("file_name", f"image {record.get('image_id')}"))
