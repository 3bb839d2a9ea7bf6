"""Pages of the change feed with all their entries, even if the service cannot send a page as a whole.

One instance with broken metadata spoils every page that should hold it: the service answers 500 or 400, or sends a body
that cannot be read. A page may also be too large for a proxy on the way, or for this process's memory. Such a page is
cut in halves, and the halves again, until the pieces arrive. An entry that fails even alone is requested without its
metadata: for that, the service needs only its database.

Before a page is cut, a request without metadata shows that the service works. This request is called the *control*; it
asks for all entries of the page, or for the first entry alone. Each half is requested once as a whole, even if the
other half arrived: one cannot conclude that the fault lies in the second half, since a page may be too large, or the
fault may be temporary. So a single broken entry among 200 costs about 25 requests, and a temporary fault hardly ever
costs an entry its metadata.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from logging import getLogger
from math import inf
from typing import Generic, TypeVar

from dicom_assets.core.tables.change_feed import Entry
from dicom_assets.service.answers import FailedTryError, Trouble
from dicom_assets.service.page_size import PageSize
from dicom_assets.service.pieces import Page, Piece, build_query
from dicom_assets.service.requests import Query, ServiceRequests

logger = getLogger(__name__)

T = TypeVar("T")

_OF_SIZE = (Trouble.SLOW, Trouble.TOO_LARGE)
"""Failures that smaller pages avoid; any other failure may be chance."""

PAGE_TRIES = 3
"""Failures of a page after which the page is cut; the last failure comes after the control. About half as many timeouts
are enough, since each timeout takes a minute."""
ENTRY_TRIES = 7
"""Failures of a single entry after which it is taken without metadata: this many failures in a row are not chance."""
ENTRY_WAIT_SECONDS = 2
"""Longest wait between two tries of a single entry."""
LOST_ENTRIES = 8
"""Number of entries taken without metadata in a row, after which each further entry is requested with metadata once."""
LEAST_SIZE = 8
"""Smallest page size, in entries, after errors that may be chance."""


@dataclass(frozen=True)
class PieceAnswer(Generic[T]):
    """An answer of the service, with the query that it answers."""

    value: T
    query: Query[T]
    trouble: Trouble | None = None
    """Kind of the wanted query's last failure before this answer, except `PASSING`; None if there was none."""


class FeedPages:
    """Pages of one service's change feed; may be used by many threads.

    Args:
        requests: sends requests to the service.
        path: path of the feed, below the service's URL.
        batch_size: greatest number of entries in one request.
        page_bytes: greatest decoded size of an answer with metadata; a page holds up to twice as many bytes.
    """

    def __init__(self, requests: ServiceRequests, path: str, batch_size: int, page_bytes: int) -> None:
        self._requests = requests
        self._path = path
        self._page_bytes = page_bytes
        self._sizes = {include_metadata: PageSize(batch_size) for include_metadata in (True, False)}
        self._lost = 0

    def fetch(self, piece: Piece, stop: threading.Event) -> Page:
        """Return the page, with as many requests as needed; entries with unreadable metadata come without metadata.

        Raises:
            ServiceError: the service fails as a whole, or the URL does not lead to a DICOM service.
            CancelledError: `stop` was set.
        """
        size, came = self._sizes[piece.include_metadata], Page(piece)
        while not came.is_last and came.rest.limit > 0 and came.size_bytes < self._page_bytes:
            self._fetch_part(replace(came.rest, limit=min(size.current, came.rest.limit)), size, came, stop)
        return came

    def fetch_few(self, piece: Piece, stop: threading.Event) -> list[Entry]:
        """Return the entries of a small piece, requested as a whole; raise as `fetch`."""
        return self._requests.fetch(self._query(piece), stop)

    def fetch_entry(
        self, piece: Piece, stop: threading.Event, *, tries: int = ENTRY_TRIES, expected: int | None = None
    ) -> tuple[list[Entry], bool]:
        """Return a list of one entry (empty if no entry is there), and whether its metadata is unreadable.

        Args:
            piece: a piece of one entry.
            stop: ends the tries.
            tries: failures after which the entry is taken without metadata.
            expected: sequence of the entry; None if unknown. If newer entries have moved it, another entry is at its
                offset. That entry did not fail, so it is requested anew.

        Raises:
            ServiceError: as `fetch`.
        """
        query = self._query(piece)
        controls = [self._query(replace(piece, include_metadata=False))] if piece.include_metadata else []
        policy_tries = self._requests.retry.tries
        while True:
            before = 1 if self._lost >= LOST_ENTRIES else tries
            most = before + policy_tries if controls else policy_tries
            longest = ENTRY_WAIT_SECONDS if controls else inf
            answer = self.ask(query, controls, stop, before=before, most=most, longest_wait_seconds=longest)
            entries = answer.value
            if answer.query is query or not entries:
                self._notice(entries)
                return entries, False
            if expected in (None, entries[0].sequence):
                self._lost += 1
                return entries, True
            expected = entries[0].sequence

    def ask(
        self,
        query: Query[T],
        controls: Sequence[Query[T]],
        stop: threading.Event,
        *,
        before: int = PAGE_TRIES,
        most: int | None = None,
        longest_wait_seconds: float = inf,
    ) -> PieceAnswer[T]:
        """Return the answer to the query; or to a control, once it shows that the service works but the query fails.

        Args:
            query: the wanted query.
            controls: queries that demand less of the service; they are sent in turns.
            stop: ends the tries.
            before: failures of the query after which the control's answer is returned; the last failure comes after
                the control.
            most: failures of query and controls after which an error is raised; None for the retry policy's number.
            longest_wait_seconds: upper bound of waits, except for waits that the service asks for.

        Raises:
            ServiceError: as `fetch`.
        """
        tries = self._requests.begin(query, stop, most=most, longest_wait_seconds=longest_wait_seconds)
        turns, control, failures, needed, slow = cycle(controls), None, 0, max(1, before - 1), before // 2 + 1
        trouble: Trouble | None = None
        while True:
            is_control = bool(controls) and control is None and failures >= needed
            asked = next(turns) if is_control else query
            try:
                answer = PieceAnswer(self._requests.ask(asked, stop), asked, trouble)
            except FailedTryError as error:
                if is_control:
                    before = failures + 1  # when a control succeeds later, the fault may be over
                elif error.trouble is not Trouble.PASSING:
                    failures, trouble = failures + 1, error.trouble
                    if error.is_final:
                        needed = 1
                    if trouble is Trouble.TOO_LARGE:
                        before = 1
                    elif trouble is Trouble.SLOW:
                        before = needed = min(before, slow)
                    if control is not None and failures >= before:
                        return control
                    if error.is_final and controls:
                        continue  # the control shows whether every query fails
                tries.count_failure(error)
            else:
                if not is_control or failures >= before:
                    return answer
                control = answer

    def _fetch_part(self, part: Piece, size: PageSize, came: Page, stop: threading.Event) -> None:
        """Add the part's entries, or some of them, to `came`; add nothing if a smaller part must be requested next."""
        if part.limit == 1:
            entries, _ = self.fetch_entry(part, stop)
        elif size.is_trial(part.limit):
            answer = self._ask_once(part, stop)
            if isinstance(answer, Trouble):
                size.give_up(part.limit)
                return
            entries = answer
        else:
            query, first = self._query(part), replace(part, limit=1, include_metadata=False)
            controls = [self._query(first)]
            if part.include_metadata:
                controls.insert(0, self._query(replace(part, include_metadata=False)))
            most_before = 1 if self._lost >= LOST_ENTRIES else PAGE_TRIES
            before = min(most_before, max(1, self._requests.retry.tries - len(controls) + 1))
            page = self.ask(query, controls, stop, before=before)
            if page.query is not query:
                self._cut(part, page, size, came, stop)
                return
            entries = page.value
            self._notice(entries)
        came.add(entries, part.limit)
        size.count_arrival(part.limit)

    def _cut(
        self, part: Piece, control: PieceAnswer[list[Entry]], size: PageSize, came: Page, stop: threading.Event
    ) -> None:
        """Add the entries of a part that fails as a whole to `came`, half by half.

        Args:
            part: a part of at least two entries.
            control: the part's entries without metadata, or the first entry alone.
            size: reduced in place if only smaller pages arrive.
            came: collects the entries, in place.
            stop: ends the tries.
        """
        is_first_alone = int(control.query.params["limit"]) < part.limit
        sequences = [] if is_first_alone else [entry.sequence for entry in control.value]
        whole = part.part(0, part.limit if is_first_alone and control.value else min(len(sequences), part.limit))
        logger.warning("The change feed's page does not come as a whole (%s): it is asked for in parts.", part)
        came.answers += 1  # counts the control, which was read at another moment
        pending, failed = whole.halves(), [whole]
        most, largest = size.current, 0
        lost: list[int] = []

        def is_too_large(piece: Piece) -> bool:
            """Return whether all entries of a failed piece arrived in smaller pieces."""
            return piece.limit > largest and not any(piece.offset <= place < piece.end for place in lost)

        while pending and not came.is_last and came.size_bytes < self._page_bytes:
            piece = pending.pop()
            if piece.limit > most:
                pending += piece.halves()
                continue
            if piece.limit == 1:
                place = piece.offset - part.offset
                found, is_lost = self.fetch_entry(piece, stop, expected=sequences[place] if sequences else None)
                lost += [piece.offset] * is_lost
                largest = max(largest, 0 if is_lost else 1)
            else:
                answer = self._ask_once(piece, stop)
                if isinstance(answer, Trouble):
                    failed += [piece] * (answer in _OF_SIZE)
                    pending += piece.halves()
                    continue
                found, largest = answer, max(largest, piece.limit)
            came.add(found, piece.limit)
            if any(each.end == piece.end and is_too_large(each) for each in failed):
                most = largest  # other pieces of the failed size would fail too
        came.is_last |= not pending and whole.limit < part.limit
        if any(each.end <= came.rest.offset and is_too_large(each) for each in failed):
            size.shrink(largest if control.trouble in _OF_SIZE else max(largest, LEAST_SIZE))

    def _ask_once(self, piece: Piece, stop: threading.Event) -> list[Entry] | Trouble:
        """Return the piece's entries, or the kind of failure. Only passing failures, such as throttling, are retried.

        Raises:
            ServiceError: as `fetch`.
        """
        query = self._query(piece)
        tries = self._requests.begin(query, stop)
        while True:
            try:
                entries = self._requests.ask(query, stop)
            except FailedTryError as error:
                if error.trouble is not Trouble.PASSING:
                    return error.trouble
                tries.count_failure(error)
            else:
                self._notice(entries)
                return entries

    def _query(self, piece: Piece) -> Query[list[Entry]]:
        return build_query(self._path, piece, self._page_bytes)

    def _notice(self, entries: list[Entry]) -> None:
        """Reset the count of entries without metadata when an entry with metadata arrives."""
        if self._lost and any(memoryview(entry.metadata).nbytes for entry in entries):
            self._lost = 0
