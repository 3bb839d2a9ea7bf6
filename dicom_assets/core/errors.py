"""What the project raises on purpose; the embedded service, `make demo` and `make dev` have errors of their own.

    DicomAssetsError
    ├── SettingsError            a setting is missing or cannot be used
    ├── UnknownHourError         a run over hours that are no partitions
    ├── OutdatedError            a run in a process that is older than what asked for it
    ├── ServiceError             the DICOM service
    │   ├── ServiceRefusedError      400, 401, 403, 404: asking again would not help
    │   ├── ServiceUnreachableError  no usable answer after every retry
    │   ├── UnreadablePageError      an answer that is no page of the change feed, or too large for memory
    │   └── FeedMovedError           the window's pages never fitted together
    ├── FabricError              the shortcuts of a Fabric lakehouse could not be listed or written
    ├── FeedEntryError           an entry that has no place in the tables
    ├── LakeError                the Delta tables
    │   ├── LakeUnavailableError     storage cannot be reached, read or written
    │   │   ├── LakeRefusedError         storage says no: asking again would not help
    │   │   └── EngineUnavailableError   Spark, which is to merge, cannot be reached, or fails
    │   ├── EngineError              Spark, which is to merge, is not fit for it: asking again would not help
    │   ├── ForeignTableError        a table under our name that is not ours
    │   ├── LakeLostError            the lake is not the one that Dagster's history is of
    │   ├── OtherServiceError        the service does not know what the lake holds
    │   ├── CommitConflictError      other writers won every attempt
    │   ├── LakeQueryError           a query that the tables cannot answer
    │   ├── VersionGoneError         a version of a table that there is not, or no more
    │   ├── CursorError              a consumer's cursor that does not fit the table
    │   ├── InstanceNotFoundError    file_index has no such instance, or several
    │   ├── InstanceFileGoneError    the instance's file is not where it was, nor where it should be now
    │   │   └── InstanceDeletedError     because the instance was deleted
    │   └── DisagreementError        rows of a table are not those that it is made from
    ├── LateHourError            an hour that is due is not in the tables
    └── AlertError               nobody could be told of a failure

Messages say what happened, why it probably did and what to do. They name windows, offsets, sequences, tables and URLs,
never a token, a name, an id or any other attribute of a patient.
"""


class DicomAssetsError(Exception):
    """Base of every error the project raises on purpose."""


class SettingsError(DicomAssetsError):
    """A setting is missing or cannot be used."""


class UnknownHourError(DicomAssetsError):
    """A run was asked to cover hours that are no partitions, or not yet."""


class OutdatedError(DicomAssetsError):
    """A run is executed by an older version of the project than the one that asked for it."""


class ServiceError(DicomAssetsError):
    """The DICOM service did not do what was asked."""


class ServiceRefusedError(ServiceError):
    """The service refused the request (400, 401, 403, 404): asking again would not help."""


class ServiceUnreachableError(ServiceError):
    """No usable answer from the service after every retry."""


class UnreadablePageError(ServiceError):
    """An answer that is no page of the change feed, after every retry, or that is too large for memory."""


class FeedMovedError(ServiceError):
    """The pages of a window never fitted together: entries kept moving while they were read."""


class FabricError(DicomAssetsError):
    """The shortcuts of a Fabric lakehouse could not be listed or written."""


class FeedEntryError(DicomAssetsError):
    """An entry that has no place in the tables, such as one without a UID in its key."""


class LakeError(DicomAssetsError):
    """The Delta tables could not be read or written."""


class LakeUnavailableError(LakeError):
    """Storage cannot be reached, read or written."""


class LakeRefusedError(LakeUnavailableError):
    """Storage says no, to a key, an identity or a container: asking again would not help."""


class EngineUnavailableError(LakeUnavailableError):
    """Spark, which is to merge, cannot be reached, or failed in a way that may heal."""


class EngineError(LakeError):
    """Spark, which is to merge, is not fit for it: asking again would not help."""


class ForeignTableError(LakeError):
    """A table lies under our name that is not ours, has a column of another type, or asks more than is done here."""


class LakeLostError(LakeError):
    """The tables are not there, or older, or others than those that Dagster's history is of."""


class OtherServiceError(LakeError):
    """The service does not know entries that the lake holds."""


class CommitConflictError(LakeError):
    """Other writers committed first at every attempt."""


class LakeQueryError(LakeError):
    """A query that the tables cannot answer."""


class VersionGoneError(LakeError):
    """A version of a table that there is not yet, or no more."""


class CursorError(LakeError):
    """A consumer's cursor that cannot be read, or is not of the table."""


class InstanceNotFoundError(LakeError):
    """`file_index` has no such instance, or several of them."""


class InstanceFileGoneError(LakeError):
    """The instance's file is not where `file_index` says, nor where the service says it is now."""


class InstanceDeletedError(InstanceFileGoneError):
    """The instance was deleted since `file_index` was written."""


class DisagreementError(LakeError):
    """Rows of a table are not those that it is made from."""


class LateHourError(DicomAssetsError):
    """An hour that is due is not in the tables."""


class AlertError(DicomAssetsError):
    """An alert could not be delivered."""
