"""The DICOM service as a resource."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from dicom_assets.adapters.delta import Given
from dicom_assets.adapters.dicom_service import DicomService
from dicom_assets.adapters.extract import Extraction, HourRead
from dicom_assets.adapters.memory import MemoryLimit
from dicom_assets.core.change_feed import Window
from dicom_assets.core.schema import Table


@dataclass(frozen=True)
class DicomServiceResource:
    """Opens the service's client when a run needs it, not when the definitions load."""

    open_client: Callable[[], DicomService]
    now: Callable[[], datetime]
    """The time, with a zone."""
    memory: MemoryLimit = field(default_factory=MemoryLimit)

    def extract(
        self,
        window: Window,
        report: Callable[[HourRead], None],
        instance: Table | None = None,
        advance: Callable[[HourRead, datetime], None] | None = None,
    ) -> Iterator[Given]:
        """The window's entries as rows of `change_feed`, in batches of whole hours.

        `report` is told of every hour, `advance` of every page. Where `instance` is derived next, its attributes are
        decoded while pages arrive.
        """
        with self.open_client() as client:
            yield from Extraction(client, window, self.now, report, instance, self.memory.batch_bytes, advance)
