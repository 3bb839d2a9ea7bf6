"""Errors of the embedded service."""

from dicom_assets.core.errors import DicomAssetsError


class EmulatorError(DicomAssetsError):
    """Base class of the embedded service's errors."""

    status_code = 400
    """HTTP status of the response to a request that causes the error."""


class EmulatorStartError(EmulatorError):
    """The embedded service cannot start: its port is taken, or its database cannot be opened."""


class InstanceExistsError(EmulatorError):
    """An instance with these UIDs is already stored in this partition; the service never overwrites."""


class InvalidInstanceError(EmulatorError):
    """A data set without a required attribute: one of the three UIDs, the SOP class UID or the patient ID."""


class InvalidPartitionError(EmulatorError):
    """A partition name that the service does not accept, or a partition that does not exist."""


class InvalidUpdateError(EmulatorError):
    """A bulk update of attributes that the service does not change, or with invalid values."""

    def __init__(self, comments: list[str]) -> None:
        super().__init__("; ".join(comments))
        self.comments = comments
