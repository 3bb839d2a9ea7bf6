"""The DICOM service as a Dagster resource."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dicom_assets.service.client import DicomService


@dataclass(frozen=True)
class DicomServiceResource:
    """Resource that opens the service's client when a run needs it, not when the definitions load."""

    open_client: Callable[[], "DicomService"]
    now: Callable[[], datetime]
    """Returns the current time, with a zone."""
