"""Names of parts of a model."""

from fnmatch import fnmatchcase


def is_below(name: str, part: str) -> bool:
    """Whether a parameter or buffer belongs to a part."""
    return fnmatchcase(name, f"{part}.*")
