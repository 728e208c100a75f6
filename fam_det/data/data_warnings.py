"""Warnings about a user's data, kept to be repeated where a user looks: above the training's lines.

Between them and its first line Detectron2 prints the whole config and the model.
"""

import logging

logger = logging.getLogger(__name__)
_kept: dict[str, None] = {}  # in their order, each once


def warn(text: str) -> None:
    """Logs a warning about data, and keeps it."""
    logger.warning("%s", text)
    _kept[text] = None


def kept_warnings() -> list[str]:
    """Returns the warnings about the data sets that were read last."""
    return list(_kept)


def forget_warnings() -> None:
    """Forgets all: those of another run in this process."""
    _kept.clear()
