"""Number of entries per request, adapted to the pages that arrive."""

import threading
from logging import getLogger

logger = getLogger(__name__)

FIRST_PATIENCE = 8
LAST_PATIENCE = 64
"""Number of smaller pages that must arrive before a larger page is tried: first `FIRST_PATIENCE`, twice as many after
each larger page that failed, at most `LAST_PATIENCE`."""


class PageSize:
    """Number of entries per request: reduced when larger pages fail, increased again after some success."""

    def __init__(self, greatest: int) -> None:
        self.current = greatest
        self._greatest = greatest
        self._proven = greatest
        self._came = 0
        self._patience = FIRST_PATIENCE
        self._lock = threading.Lock()

    def is_trial(self, limit: int) -> bool:
        """Return whether this size is a trial, since pages of this size failed before."""
        return limit == self.current > self._proven

    def count_arrival(self, limit: int) -> None:
        """Count a page that arrived, for which `limit` entries were requested."""
        if limit != self.current or limit == self._greatest == self._proven:
            return
        with self._lock:
            self._proven = limit
            self._came += 1
            if self._came >= self._patience:
                self.current, self._came = min(2 * limit, self._greatest), 0

    def give_up(self, limit: int) -> None:
        """Return to the proven size after a trial of a larger size has failed."""
        with self._lock:
            if self.is_trial(limit):
                self.current, self._came = self._proven, 0
                self._patience = min(2 * self._patience, LAST_PATIENCE)

    def shrink(self, limit: int) -> None:
        """Reduce the size to `limit` entries from now on."""
        with self._lock:
            if limit >= self.current:
                return
            self.current = self._proven = limit
            self._came = 0
        logger.warning(
            "Pages of the change feed come with %d entries, not with more: they are asked for in that size for the "
            "time being. If this happens often, set DICOM_BATCH_SIZE=%d.",
            *(limit, limit),
        )
