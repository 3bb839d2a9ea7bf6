"""Errors that the project raises on purpose; the embedded service, the demo and `dev` have their own errors.

    DicomAssetsError
    ├── SettingsError            a setting is missing or cannot be used
    ├── UnknownHourError         hours that are not partitions, or not yet
    ├── OutdatedError            a run in a process whose version is older than the version that requested the run
    ├── ServiceError             the DICOM service
    │   ├── ServiceRefusedError      400, 401, 403, 404: a retry would not help
    │   ├── ServiceUnreachableError  no usable response after every retry
    │   ├── UnreadablePageError      a response that is not a page of the change feed, or too large for memory
    │   └── FeedMovedError           pages of a window that never fitted together
    ├── FabricError              the shortcuts of a Fabric lakehouse could not be listed or written
    ├── FeedEntryError           an entry that cannot be stored in the tables
    ├── LakeError                the Delta tables
    │   ├── LakeUnavailableError     storage cannot be reached, read or written
    │   │   ├── LakeRefusedError         storage refuses the request: a retry would not help
    │   │   └── EngineUnavailableError   Spark, the merge engine, cannot be reached, or fails
    │   ├── EngineError              Spark, the merge engine, cannot do the merge: a retry would not help
    │   ├── ForeignTableError        a table at our path that is not ours
    │   ├── LakeLostError            a lake that does not match Dagster's history
    │   ├── OtherServiceError        the service does not know entries that the lake has
    │   ├── CommitConflictError      other writers committed first at every attempt
    │   ├── LakeQueryError           a query that the tables cannot answer
    │   ├── VersionGoneError         a table version that does not exist yet, or no longer
    │   ├── CursorError              a consumer's cursor that does not match the table
    │   ├── InstanceNotFoundError    file_index has no such instance, or several
    │   ├── InstanceFileGoneError    an instance's file is neither at its old place nor at its current one
    │   │   └── InstanceDeletedError     because the instance was deleted
    │   └── DisagreementError        rows of a table that disagree with its source table
    ├── LateHourError            an hour that is due is not in the tables
    └── AlertError               an alert could not be delivered

Messages say what happened, the probable reason and what to do. They name windows, offsets, sequences, tables and URLs,
never a token, a name, an id or any other attribute of a patient.
"""


class DicomAssetsError(Exception):
    """Base of every error the project raises on purpose."""


class SettingsError(DicomAssetsError):
    """A setting is missing or cannot be used."""


class UnknownHourError(DicomAssetsError):
    """Requested hours are not partitions, or not yet."""


class OutdatedError(DicomAssetsError):
    """The version of the project that executes a run is older than the version that requested the run."""


class ServiceError(DicomAssetsError):
    """A request to the DICOM service failed."""


class ServiceRefusedError(ServiceError):
    """The service refused the request (400, 401, 403, 404): a retry would not help."""


class ServiceUnreachableError(ServiceError):
    """The service gave no usable response after every retry."""


class UnreadablePageError(ServiceError):
    """A response is not a page of the change feed, after every retry, or is too large for memory."""


class FeedMovedError(ServiceError):
    """The pages of a window never fitted together: entries moved between pages during every read."""


class FabricError(DicomAssetsError):
    """The shortcuts of a Fabric lakehouse could not be listed or written."""


class FeedEntryError(DicomAssetsError):
    """An entry of the change feed cannot be stored in the tables, for example because its key lacks a UID."""


class LakeError(DicomAssetsError):
    """The Delta tables could not be read or written."""


class LakeUnavailableError(LakeError):
    """Storage cannot be reached, read or written."""


class LakeRefusedError(LakeUnavailableError):
    """Storage refuses a key, an identity or a container: a retry would not help."""


class EngineUnavailableError(LakeUnavailableError):
    """Spark, the merge engine, cannot be reached, or failed in a way that a retry may solve."""


class EngineError(LakeError):
    """Spark, the merge engine, cannot do the merge: a retry would not help."""


class ForeignTableError(LakeError):
    """A table at our path is not ours, has a column of another type, or requires features that we do not support."""


class LakeLostError(LakeError):
    """The tables are missing, or older than Dagster's history, or not the tables of Dagster's history."""


class OtherServiceError(LakeError):
    """The service does not know entries that the lake has."""


class CommitConflictError(LakeError):
    """Other writers committed first at every attempt."""


class LakeQueryError(LakeError):
    """The tables cannot answer a query."""


class VersionGoneError(LakeError):
    """A table version does not exist yet, or no longer."""


class CursorError(LakeError):
    """A consumer's cursor cannot be read or written, or belongs to another table."""


class InstanceNotFoundError(LakeError):
    """`file_index` has no such instance, or several."""


class InstanceFileGoneError(LakeError):
    """The instance's file is neither at the path in `file_index` nor at the current path in the service."""


class InstanceDeletedError(InstanceFileGoneError):
    """The instance was deleted after `file_index` was written."""


class DisagreementError(LakeError):
    """Rows of a table disagree with its source table."""


class LateHourError(DicomAssetsError):
    """An hour that is due is not in the tables."""


class AlertError(DicomAssetsError):
    """An alert could not be delivered."""
