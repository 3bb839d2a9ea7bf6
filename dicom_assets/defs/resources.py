"""The DICOM service as a resource."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from dicom_assets.adapters.delta import Given
from dicom_assets.adapters.dicom_service import DicomService
from dicom_assets.adapters.extract import Extraction, HourRead
from dicom_assets.core.change_feed import Window
from dicom_assets.core.schema import Table


@dataclass(frozen=True)
class DicomServiceResource:
    """Opens the service's client when a run needs it, not when the definitions load."""

    open_client: Callable[[], DicomService]
    now: Callable[[], datetime]
    """The time, with a zone."""

    def extract(
        self, window: Window, report: Callable[[HourRead], None], instance: Table | None = None
    ) -> Iterator[Given]:
        """The window's entries as rows of `change_feed`, in batches of whole hours; `report` is told of every hour.

        Where `instance` is derived next, its attributes are decoded while pages arrive.
        """
        with self.open_client() as client:
            yield from Extraction(client, window, self.now, report, instance)
