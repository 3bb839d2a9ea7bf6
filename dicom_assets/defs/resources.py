"""The DICOM service as a resource."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from dicom_assets.adapters.dicom_service import DicomService
from dicom_assets.adapters.extract import Extraction, HourRead
from dicom_assets.core.change_feed import Window


@dataclass(frozen=True)
class DicomServiceResource:
    """Opens the service's client when a run needs it, not when the definitions load."""

    open_client: Callable[[], DicomService]
    now: Callable[[], datetime]
    """The time, with a zone."""

    def extract(self, window: Window, report: Callable[[HourRead], None]) -> Iterator[pa.Table]:
        """The window's entries as rows of `change_feed`, in batches of whole hours; `report` is told of every hour."""
        with self.open_client() as client:
            yield from Extraction(client, window, self.now, report)
