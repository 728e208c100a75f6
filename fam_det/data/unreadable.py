"""Images that cannot be read, counted and named once."""

import logging
from collections.abc import Mapping

logger = logging.getLogger(__name__)


class UnreadableImages:
    """Which files could not be read so far.

    Args:
        most: different files that may be; the next one is an error. 0 for none.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.reasons: dict[str, str] = {}

    def add(self, reasons: Mapping[str, str]) -> None:
        """Note files and reasons.

        Raises:
            ValueError: more files than are allowed; the message names the last one.
        """
        for file, reason in reasons.items():
            if file in self.reasons:
                continue
            self.reasons[file] = reason
            if len(self.reasons) > self.most:
                raise ValueError(
                    f"{file}: {reason}; DATALOADER.MAX_UNREADABLE lets a training pass over "
                    f"{self.most} such images, and this is number {len(self.reasons)}"
                )
            logger.warning(
                "%s: %s; passed over (%d of at most %d)",
                *(file, reason, len(self.reasons), self.most),
            )
