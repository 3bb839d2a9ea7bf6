"""A session of Spark: opened when it is first needed, over Spark Connect, or the one that a notebook has.

What goes wrong is told in our own words. Spark's are not passed on: some of its messages quote the values of a row.
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
"""Of the first request; Spark's client would go on for ten minutes. About a second in all."""
_TIMES = ("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
"""How files are to hold times: by itself Spark writes them in a form given up long ago, without statistics."""
_DATES = ("spark.sql.parquet.datetimeRebaseModeInWrite", "CORRECTED")
"""How Spark 3 is to write dates before 1582, which it refuses by itself; Spark 4 writes them so."""
_TAG = "spark.databricks.delta.commitInfo.userMetadata"

_TALKATIVE = ("SQLQueryContextLogger", "DataFrameQueryContextLogger", "pyspark.sql.connect.logging")
"""Loggers of Spark's client that write each error to stderr."""

_OF_THE_NETWORK = ("SparkConnectGrpcException", "RetriesExceeded")
"""Errors of Spark's client itself; what the server says is of a class below these."""
_OF_JAVA = ("Py4JJavaError",)
"""Errors that a notebook's session gives as Java has them: Delta's lost races are among them."""
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
    r"|TABLE_OR_VIEW_NOT_FOUND"  # without the jars `delta` is a database; a folder that is not seen is told otherwise
)
_REFUSED = re.compile(r"UNAUTHENTICATED|PERMISSION_DENIED|INSUFFICIENT_PERMISSIONS|AccessControlException|, 40[13],")


class LostRaceError(Exception):
    """Another writer committed first: begin again."""


class SessionEndedError(Exception):
    """The session has ended, though a statement of it may go on: begin again."""


class NoAnswerError(EngineUnavailableError):
    """Spark did not say how a statement ended; it may go on."""


class NotSeenError(Exception):
    """Spark does not find one of the two locations of a statement."""


class Spark:
    """A session, from its first statement until this object or the process ends."""

    def __init__(self, remote: str | None = None) -> None:
        """A session to be opened.

        Args:
            remote: `sc://host:port/;parameters` of a Spark Connect server, secrets included; None for the session that
                the process has, as in a notebook. That one is left open.
        """
        self._remote = remote
        self._session: SparkSession | None = None
        self._finalizer: weakref.finalize[..., Spark] | None = None

    @property
    def place(self) -> str:
        """Where Spark is, for people; without a secret."""
        if self._remote is None:
            return "the session of this process"
        url = urlsplit(self._remote)
        return f"sc://{url.hostname}:{url.port or CONNECT_PORT}"

    def version(self) -> str:
        """Spark's version.

        Raises:
            EngineError: it cannot be used.
            EngineUnavailableError: it cannot be reached.
        """
        session = self._open()
        return self._ask(lambda: str(session.version))

    def merge(self, statement: str, tag: str) -> None:
        """Runs a MERGE; its commit, if there is one, carries the tag as its user metadata.

        Raises:
            EngineError: Spark cannot be used.
            EngineUnavailableError: Spark cannot be reached, or failed in a way that may heal.
            LostRaceError: nothing was written; begin again.
            NoAnswerError: Spark was asked, and cannot be reached any more.
            SessionEndedError: nothing is known; begin again.
            NotSeenError: Spark does not see the table or the staged file.
        """
        session = self._open()
        self._ask(lambda: session.conf.set(_TAG, tag))
        try:
            self._ask(lambda: session.sql(statement).collect(), begins=True)
        finally:
            if self._remote is None:  # a notebook's own commits are not ours
                session.conf.unset(_TAG)

    def close(self) -> None:
        """Ends the session, where it is our own."""
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
        try:  # Spark's own client would ask a server that is not there for ten minutes
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
        except ImportError as error:  # what its client needs beside itself
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
        """The answer; where something begins with the question, it may go on without one."""
        from pyspark.errors import PySparkException

        try:
            with _silence(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", r"\[RETRIES_EXCEEDED\]")  # the error that follows says so
                return call()
        except Exception as error:
            if not isinstance(error, PySparkException) and type(error).__name__ not in _OF_JAVA:
                raise
            problem = self._explain(error, has_begun=begins)
        # Out here, so that Spark's own error, which may quote a row, does not travel along as the context.
        raise problem

    def _explain(self, error: Exception, *, has_begun: bool) -> Exception:
        """What a failure of Spark's means."""
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
    """Keeps Spark's client from logging the server's messages, which may quote rows.

    By a filter of its own: any `logging.config.dictConfig` (Dagster's commands begin with one) enables each logger.
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
    """Ends a session; a server that is gone already is not waited for."""
    session.client.set_retry_policies([hasty])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\[RETRIES_EXCEEDED\]")
        session.stop()


def _condition(error: BaseException) -> str:
    """The name of what went wrong, which never holds a value."""
    find = getattr(error, "getCondition", None)
    return str((find() if find else None) or type(error).__name__)


def _release(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _has_databricks_connect() -> bool:
    """Its client has version numbers of its own, and checks them itself."""
    try:
        metadata.version("databricks-connect")
    except metadata.PackageNotFoundError:
        return False
    return True
