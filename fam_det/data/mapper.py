"""Detectron2's mappers, from a record to what a model takes; they look at the file first."""

from collections.abc import Callable
from typing import Any

from fam_det.data.image_file import opened

from detectron2.utils.file_io import PathManager

Record = dict[str, Any]


class CheckedMapper:
    """A mapper that refuses an image before it is decoded if it could do harm.

    Args:
        mapper: from a record in Detectron2's format to what the model takes.
    """

    def __init__(self, mapper: Callable[[Record], Any]) -> None:
        self.mapper = mapper

    def __call__(self, record: Record) -> Any:
        """What the mapper makes of a record; the head alone costs a hundredth of that.

        Raises:
            ValueError: an image that is too big, of too many bits, or a program.
        """
        if "file_name" in record:
            with PathManager.open(record["file_name"], "rb") as stream, opened(stream):
                pass
        return self.mapper(record)


class NamingMapper(CheckedMapper):
    """The same for an evaluation, which needs every image: an error names the file."""

    def __call__(self, record: Record) -> Any:
        """What the mapper makes of a record.

        Raises:
            ValueError: whatever is wrong with the image, in one line that names it.
        """
        try:
            return super().__call__(record)
        except Exception as error:  # a broken file makes Pillow raise errors of many types
            file = name_of(record)
            raise ValueError(
                f"{file}: {reason_of(error, file)}; an evaluation needs every image"
            ) from error


def name_of(record: Record) -> str:
    """What to call the image of a record."""
    return str(record.get("file_name", f"image {record.get('image_id')}"))


def reason_of(error: Exception, file: str) -> str:
    """One line for what was wrong with an image, without its name."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    text = str(error).replace(f" for image {file}", "").replace(f"'{file}'", "")
    text = " ".join(text.split())
    if type(error) is ValueError and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
