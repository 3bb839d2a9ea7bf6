"""Windows of very many entries, against the embedded service: read whole, at a cost that grows no faster than they do.

The service goes through the rows of a window before an offset, as the real one does. How many it went through is
counted, since seconds say little: no more than the offset and the page.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from starlette.requests import Request

from dicom_assets.core.tables.change_feed import Window
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets.service import client as dicom_service
from dicom_assets.service.client import DicomService

START = datetime(2026, 3, 1, tzinfo=UTC)
ENTRIES = 21_000
TIED = 7
"""Instances that were stored at the same time; no part's size is a multiple of it, so parts end among them."""
BATCH_SIZE = 40
PART = BATCH_SIZE * dicom_service.PAGES_PER_PART
BULK = PART + 3 * BATCH_SIZE
"""Instances of a study that was deleted as a whole: entries of one time, more than a part holds."""


@dataclass
class DeepService:
    """The embedded service, and the rows of its windows that it went through for all pages so far."""

    service: Service
    url: str = ""
    scanned: int = 0

    def intercept(self, request: Request) -> None:
        self.scanned += int(request.query_params["offset"]) + int(request.query_params["limit"])

    def read(self, hours: int) -> tuple[list[int], int]:
        """The sequences of a window of the first hours, and the rows gone through for it."""
        before = self.scanned
        with DicomService(self.url, batch_size=BATCH_SIZE) as client:
            pages = list(client.fetch_pages(window_of(hours), include_metadata=False))
        return [entry.sequence for page in pages for entry in page], self.scanned - before

    def expected(self, hours: int) -> list[int]:
        window = window_of(hours)
        page = self.service.change_feed(start=window.start, end=window.end, limit=10 * ENTRIES, include_metadata=False)
        return [entry["sequence"] for entry in page]


def window_of(hours: int) -> Window:
    return Window(START, START + timedelta(hours=hours))


def fill(service: Service, at: datetime, count: int, study: str) -> None:
    """A study whose instances arrive over three hours."""
    for number in range(count):
        uids = {"0020000D": study, "0020000E": f"{study}.1", "00080018": f"{study}.1.{number}"}
        metadata = {tag: {"vr": "UI", "Value": [uid]} for tag, uid in uids.items()}
        service.store_metadata(metadata, at=at + timedelta(hours=3) * (number // TIED * TIED / count))


@pytest.fixture(scope="module")
def deep() -> Iterator[DeepService]:
    with Service() as service:
        deep = DeepService(service)
        with service.transaction():
            fill(service, START, ENTRIES, "1.1")
            fill(service, START - timedelta(days=1), BULK, "1.2")
            service.delete("1.2", at=START + timedelta(hours=2.5))
        with serve(service, intercept=deep.intercept) as deep.url:
            yield deep


@pytest.fixture(scope="module")
def whole(deep: DeepService) -> tuple[list[int], int]:
    return deep.read(3)


def test_deep_window_is_read_whole_and_in_order_with_ties_at_the_ends_of_its_parts(deep, whole):
    assert PART % TIED
    found, _ = whole
    assert len(found) == ENTRIES + BULK
    assert found == deep.expected(3)


def test_rows_gone_through_grow_with_the_window_and_not_with_its_square(deep, whole, monkeypatch):
    (hour, for_hour), (found, for_all) = deep.read(1), whole
    assert for_all / len(found) < 1.3 * for_hour / len(hour) < dicom_service.PAGES_PER_PART
    monkeypatch.setattr(dicom_service, "PAGES_PER_PART", ENTRIES)
    _, in_one_part = deep.read(1)
    assert in_one_part > 3 * for_hour
