"""Spark session: opened on first use over Spark Connect, or taken from the notebook that runs this process.

Errors are reported in this project's own words. Spark's messages are not passed on: some quote the values of a row.
"""

import logging
import re
import socket
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from dicom_assets.core.errors import EngineError, EngineUnavailableError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

T = TypeVar("T")
CONNECT_PORT = 15002
_TIMEOUT_SECONDS = 10
_TRIES = 4
"""Retries of the first request, about a second in all; by default Spark's client retries for ten minutes."""
_TIMES = ("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
"""Spark setting for times in files: Spark's default is a type that was deprecated long ago and has no statistics."""
_DATES = ("spark.sql.parquet.datetimeRebaseModeInWrite", "CORRECTED")
"""Spark setting for dates before 1582: Spark 3 refuses to write them by default; Spark 4 writes them this way."""
_TAG = "spark.databricks.delta.commitInfo.userMetadata"

_TALKATIVE = ("SQLQueryContextLogger", "DataFrameQueryContextLogger", "pyspark.sql.connect.logging")
"""Loggers of Spark's client that write each error to stderr."""

_OF_THE_NETWORK = ("SparkConnectGrpcException", "RetriesExceeded")
"""Error classes that Spark's client itself raises; errors of the server have subclasses of these."""
_OF_JAVA = ("Py4JJavaError",)
"""Error classes that a notebook's session passes on from Java; Delta's lost races are among them."""
_LOST_RACE = re.compile(
    r"DELTA_CONCURRENT_\w+|DELTA_METADATA_CHANGED|DELTA_PROTOCOL_CHANGED"
    r"|\b(?:Concurrent\w+|MetadataChanged|ProtocolChanged)Exception\b"
    r"|[Cc]ommit conflict|[Cc]oncurrent transaction|[Tt]ransaction conflict|Failed to commit transaction"
)
_LOST_SESSION = re.compile(r"SESSION_(?:CLOSED|NOT_FOUND|CHANGED|EXPIRED)|NO_ACTIVE_SESSION|[Ss]ession .*not found")
_NOT_SEEN = re.compile(r"PATH_NOT_FOUND|DELTA_TABLE_NOT_FOUND|DELTA_MISSING_DELTA_TABLE|PATH_DOES_NOT_EXIST"
                       r"|FILE_NOT_EXIST|DELTA_MISSING_TRANSACTION_LOG|Invalid table location")  # fmt: skip
_NO_DELTA = re.compile(
    r"DATA_SOURCE_NOT_FOUND|UNSUPPORTED_DATASOURCE_FOR_DIRECT_QUERY|UNSUPPORTED_FEATURE\.TABLE_OPERATION"
    r"|DELTA_CONFIGURE_SPARK_SESSION|MERGE INTO TABLE is not supported"
    r"|TABLE_OR_VIEW_NOT_FOUND"  # without the jars `delta` is read as a database; a missing folder gives another error
)
_REFUSED = re.compile(r"UNAUTHENTICATED|PERMISSION_DENIED|INSUFFICIENT_PERMISSIONS|AccessControlException|, 40[13],")


class LostRaceError(Exception):
    """Commit lost to another writer, who committed first; the caller retries."""


class SessionEndedError(Exception):
    """End of the session, though its statement may still be running; the caller retries."""


class NoAnswerError(EngineUnavailableError):
    """Missing answer of Spark: how the statement ended is not known, and it may still be running."""


class NotSeenError(Exception):
    """Location in a statement that Spark does not find: the table or the staged file."""


class Spark:
    """Spark session, from its first statement until this object or the process ends."""

    def __init__(self, remote: str | None = None) -> None:
        """Create a session that is opened on first use.

        Args:
            remote: `sc://host:port/;parameters` of a Spark Connect server, secrets included; None for the session that
                this process already has, as in a notebook. `close` leaves such a session open.
        """
        self._remote = remote
        self._session: SparkSession | None = None
        self._finalizer: weakref.finalize[..., Spark] | None = None

    @property
    def place(self) -> str:
        """Address of Spark for people, without secrets."""
        if self._remote is None:
            return "the session of this process"
        url = urlsplit(self._remote)
        return f"sc://{url.hostname}:{url.port or CONNECT_PORT}"

    def version(self) -> str:
        """Return Spark's version.

        Raises:
            EngineError: Spark cannot be used.
            EngineUnavailableError: Spark cannot be reached.
        """
        session = self._open()
        return self._ask(lambda: str(session.version))

    def merge(self, statement: str, tag: str) -> None:
        """Run a MERGE; its commit, if there is one, carries the tag as user metadata.

        Raises:
            EngineError: Spark cannot be used.
            EngineUnavailableError: Spark cannot be reached, or failed in a way that may pass.
            LostRaceError: nothing was written; the caller retries.
            NoAnswerError: Spark got the statement, and cannot be reached any more.
            SessionEndedError: whether anything was written is not known; the caller retries.
            NotSeenError: Spark does not find the table or the staged file.
        """
        session = self._open()
        self._ask(lambda: session.conf.set(_TAG, tag))
        try:
            self._ask(lambda: session.sql(statement).collect(), begins=True)
        finally:
            if self._remote is None:  # the notebook's own commits must not carry the tag
                session.conf.unset(_TAG)

    def close(self) -> None:
        """End the session, unless the notebook owns it."""
        self._session = None
        if self._finalizer is not None:
            self._finalizer()

    def _open(self) -> "SparkSession":
        if self._session is None:
            session = self._join() if self._remote is None else self._connect(self._remote)
            self._ask(lambda: session.conf.set(*_TIMES))
            if self._ask(lambda: str(session.version)).startswith("3."):
                self._ask(lambda: session.conf.set(*_DATES))
            self._session = session
        return self._session

    def _join(self) -> "SparkSession":
        try:
            from pyspark.sql import SparkSession
        except ImportError as error:
            raise self._not_installed() from error
        session = SparkSession.getActiveSession()
        if session is None:
            raise EngineError(
                "DICOM_MERGE_ENGINE=spark, but DICOM_SPARK_REMOTE is not set and this process has no Spark session. "
                f"Set it to the address of a Spark Connect server, such as sc://HOST:{CONNECT_PORT}; or run this where "
                "there is a session, as in a notebook of Databricks or Fabric."
            )
        return session

    def _connect(self, remote: str) -> "SparkSession":
        try:
            from pyspark import __version__ as client
            from pyspark.sql import SparkSession
            from pyspark.sql.connect.client.retries import DefaultPolicy
        except ImportError as error:
            raise self._not_installed() from error
        url = urlsplit(remote)
        try:  # Spark's own client would retry a missing server for ten minutes
            socket.create_connection((str(url.hostname), url.port or CONNECT_PORT), _TIMEOUT_SECONDS).close()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise EngineUnavailableError(
                f"Spark was not reached at {self.place}: {reason}. Nothing was written. Check that its Spark Connect "
                "server runs, DICOM_SPARK_REMOTE and the network; or unset DICOM_MERGE_ENGINE to merge without Spark."
            ) from error
        try:
            session = SparkSession.builder.remote(remote).create()
            usual = session.client.get_retry_policies()
            session.client.set_retry_policies([DefaultPolicy(max_retries=_TRIES)])
        except ImportError as error:  # a package that Spark's client needs
            raise self._not_installed() from error
        self._finalizer = weakref.finalize(self, _end, session, DefaultPolicy(max_retries=1))
        try:
            server = self._ask(lambda: str(session.version))
        except BaseException:
            self.close()
            raise
        session.client.set_retry_policies(usual)
        if _release(server) != _release(client) and not _has_databricks_connect():
            self.close()
            raise EngineError(
                f"Spark at {self.place} is {server}, and its client here is {client}: they do not go together. Nothing "
                f"was written. Install the client of that release: pip install 'pyspark-client=={_release(server)}.*'."
            )
        return session

    def _ask(self, call: Callable[[], T], *, begins: bool = False) -> T:
        """Call Spark and return its answer; raise its errors as this module's.

        Args:
            call: asks Spark.
            begins: whether the call starts a statement that may go on running without an answer.
        """
        from pyspark.errors import PySparkException

        try:
            with _silence(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", r"\[RETRIES_EXCEEDED\]")  # the error that follows says so
                return call()
        except Exception as error:
            if not isinstance(error, PySparkException) and type(error).__name__ not in _OF_JAVA:
                raise
            problem = self._explain(error, has_begun=begins)
        # Raised outside the handler: Spark's own error, which may quote a row, must not become the context.
        raise problem

    def _explain(self, error: Exception, *, has_begun: bool) -> Exception:
        """Return the error that stands for a failure of Spark.

        Args:
            error: Spark's error.
            has_begun: whether a statement was started, which may still be running.
        """
        from pyspark.errors import AnalysisException, ParseException

        text = str(error).partition("\n\nJVM stacktrace:")[0].partition("\n\tat ")[0]
        condition = _condition(error)
        if _LOST_SESSION.search(text):
            self.close()
            return SessionEndedError() if has_begun else LostRaceError()
        if _LOST_RACE.search(text):
            return LostRaceError()
        if _NO_DELTA.search(text):
            return EngineError(
                f"Spark at {self.place} does not know Delta tables ({condition}). Nothing was written. Start it with "
                "Delta's jars, spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension and "
                "spark.sql.catalog.spark_catalog=org.apache.spark.sql.delta.catalog.DeltaCatalog; see docs/spark.md."
            )
        if _NOT_SEEN.search(text):
            return NotSeenError(condition)
        if _REFUSED.search(text):
            return EngineError(
                f"Spark at {self.place} refuses ({condition}). Nothing was written. Either it does not accept the "
                "token in DICOM_SPARK_REMOTE, or its own identity may not write to the lake: Spark reaches the lake "
                "with its own rights, not with those of this process."
            )
        kind: type[Exception] = EngineUnavailableError
        if has_begun and type(error).__name__ in _OF_THE_NETWORK:
            kind = NoAnswerError
        elif isinstance(error, AnalysisException | ParseException):
            kind = EngineError
        return kind(
            f"Spark at {self.place} failed ({condition}). The table is as it was, or as it should be: run this again. "
            "If it stays so, Spark's own log says more; its message is not repeated here since it may quote rows."
        )

    def _not_installed(self) -> EngineError:
        return EngineError(
            "DICOM_MERGE_ENGINE=spark, but Spark's client is not installed here, or not whole. Nothing was written. "
            "Install it: pip install 'dicom-assets[spark]' (on Databricks and Fabric it is there already)."
        )


@contextmanager
def _silence() -> Iterator[None]:
    """Keep Spark's client from logging the server's messages, which may quote rows.

    A filter does this, since a disabled logger would be enabled again by any `logging.config.dictConfig`, with which
    Dagster's commands begin.
    """

    def silence(_: logging.LogRecord) -> bool:
        return False

    get_logger: Callable[[str], logging.Logger]
    try:
        from pyspark.logger import PySparkLogger
    except ImportError:  # Spark 3.5 has Python's own
        get_logger = logging.getLogger
    else:
        get_logger = PySparkLogger.getLogger
    loggers = [get_logger(name) for name in _TALKATIVE]
    for logger in loggers:
        logger.addFilter(silence)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(silence)


def _end(session: "SparkSession", hasty: Any) -> None:
    """End a session without waiting for a server that is gone already."""
    session.client.set_retry_policies([hasty])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\[RETRIES_EXCEEDED\]")
        session.stop()


def _condition(error: BaseException) -> str:
    """Return the name of Spark's error condition, which never holds a value."""
    find = getattr(error, "getCondition", None)
    return str((find() if find else None) or type(error).__name__)


def _release(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _has_databricks_connect() -> bool:
    """Return whether Databricks Connect is installed, which has its own version numbers and checks them itself."""
    try:
        metadata.version("databricks-connect")
    except metadata.PackageNotFoundError:
        return False
    return True
