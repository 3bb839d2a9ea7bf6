"""SQL over the lake's tables, with delta-rs's query engine (Apache DataFusion); answers are streamed."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

import pyarrow as pa
from deltalake import QueryBuilder
from deltalake.exceptions import DeltaError

from dicom_assets.core.columns.schema import SERVICE, TABLES, Table
from dicom_assets.core.errors import LakeQueryError, LakeUnavailableError, VersionGoneError
from dicom_assets.core.memory import MemoryLimit
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.snapshot import Snapshot
from dicom_assets.lake.time_travel import open_at
from dicom_assets.query.sql.catalogue import list_columns, list_tables
from dicom_assets.query.sql.errors import Schemas, explain_error
from dicom_assets.query.sql.statement import Statement, parse_statement

_ENGINE = {"datafusion.catalog.information_schema": "true"}
_FAILURES = (DeltaError, pa.ArrowInvalid, ValueError, OSError)
_SERVICE = SERVICE.name
_SHARED = "all_services"
"""Schema of the whole shared tables, if a query sees the rows of one service only."""
_OF_STORAGE = re.compile(r"Object Store error|ObjectStore|Generic (MicrosoftAzure|LocalFileSystem)")


@dataclass(frozen=True)
class AsOf:
    """Versions of the tables that a query reads; by default the newest versions."""

    time: datetime | None = None
    """Time, with a zone, at which the versions were the newest; None for now."""
    versions: Mapping[str, int] = field(default_factory=dict)
    """Version by name of table; a version here takes precedence over `time`."""

    def choose(self, table: Table) -> int | datetime | None:
        """Return the version or time for a table; None for its newest version."""
        return self.versions.get(table.name, self.time)


class QueryResult:
    """Result of a statement: columns, and rows that are computed while they are read. Rows can be read once."""

    def __init__(self, question: "_Question", rows: pa.RecordBatchReader) -> None:
        self._question = question
        self._rows = rows
        self.schema: pa.Schema = pa.schema([(column.name, _simplify_type(column.type)) for column in rows.schema])

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows, in batches of some thousand rows.

        Raises:
            LakeQueryError: the query fails at a row.
            LakeUnavailableError: storage refuses.
        """
        while True:
            error: Exception
            try:
                batch = self._rows.read_next_batch()
            except StopIteration:
                return
            except _FAILURES as failure:
                error = failure
            else:
                columns = [
                    column.cast(kind, safe=False) for column, kind in zip(batch.columns, self.schema.types, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(columns, schema=self.schema)
                continue
            raise self._question.explain(error, at_rows=True)

    @property
    def is_plan(self) -> bool:
        """True if the answer is the plan of a query, which has texts of many lines."""
        return self._question.statement.keyword == "EXPLAIN"

    def count(self) -> int | None:
        """Return the number of all rows, by a further query that reads little; None if it cannot be found like this."""
        return self._question.count()


@dataclass(frozen=True)
class _Question:
    lakes: Mapping[str, Lake]
    """Lakes by name of service; the name is empty if there is only one service."""
    statement: Statement
    tables: Sequence[Table]
    snapshots: Mapping[str, Mapping[str, Snapshot]]
    """Snapshots by name of table, then by name of service."""
    memory: MemoryLimit

    def execute(self, sql: str) -> pa.RecordBatchReader:
        builder = QueryBuilder(_ENGINE)
        # QueryBuilder's configuration does not accept this limit. Without it a sorted answer is held in memory whole.
        _execute(builder, f"SET datafusion.runtime.memory_limit = '{self.memory.work_bytes // 2**20}M'")
        for service in filter(None, self.lakes):
            _execute(builder, f"CREATE SCHEMA {service}")
        for name, by_service in self.snapshots.items():
            if any(snapshot.scope.is_shared for snapshot in by_service.values()):
                builder = _register_shared(builder, name, by_service)
                continue
            for service, snapshot in by_service.items():
                builder = builder.register(f"{service}.{name}" if service else name, snapshot.connect())
            if "" not in by_service:
                parts = (f"SELECT '{service}' AS {_SERVICE}, * FROM {service}.{name}" for service in by_service)  # noqa: S608
                _execute(builder, f"CREATE VIEW {name} AS {' UNION ALL BY NAME '.join(parts)}")
        return pa.RecordBatchReader.from_stream(builder.execute(sql))

    @property
    def columns(self) -> dict[str, list[str]]:
        """Column names by existing table."""
        return {
            name: list(dict.fromkeys(column for each in by_service.values() for column in each.schema.names))
            + ([] if "" in by_service else [_SERVICE])
            for name, by_service in self.snapshots.items()
        }

    def count(self) -> int | None:
        if not self.statement.is_query:
            return None
        try:
            (batch,) = self.execute(f"SELECT count(*) FROM (\n{self.statement.body}\n)")  # noqa: S608 — it is the question
        except (*_FAILURES, LakeUnavailableError):
            return None
        return int(batch.column(0)[0].as_py())

    def explain(self, error: Exception, *, at_rows: bool = False) -> LakeQueryError | LakeUnavailableError:
        """Return the error to raise; without the engine's own text, which may contain values of rows."""
        reason = str(error) or type(error).__name__
        if _OF_STORAGE.search(reason):
            if "not found" in reason or "NotFound" in reason:
                return LakeUnavailableError(
                    "A file of the tables is gone that the asked version needs: it was vacuumed. Old versions can be "
                    "read for DICOM_RETENTION_HOURS; ask for a newer one."
                )
            lake = next(iter(self.lakes.values()))
            try:
                with lake.storage.explained("", "read"):
                    raise OSError(reason)
            except LakeUnavailableError as refusal:
                return LakeUnavailableError(str(refusal))
        return explain_error(reason, self.statement, Schemas(self.columns, self.tables), at_rows=at_rows)


def ask(
    lake: Lake | Mapping[str, Lake],
    sql: str,
    *,
    tables: Sequence[Table] = TABLES,
    as_of: AsOf | None = None,
    memory: MemoryLimit | None = None,
) -> QueryResult:
    """Return the answer to a statement that reads.

    Args:
        lake: the lake whose tables can be queried by their names: `SELECT … FROM instance`. Or several lakes by name of
            service: then `instance` has the rows of all services, with the service in `serviceName`, and
            `north.instance` the rows of one service.
        sql: one statement. Names of columns need no quotes, and are case-sensitive.
        tables: tables of the lake, with the users' columns.
        as_of: versions of the tables; None for the newest.
        memory: memory limit of the query; None for the default. Sorted or grouped rows beyond the limit are spilled to
            disk.

    Raises:
        LakeQueryError: the statement cannot be understood, would write, or names a table that does not exist. The
            message shows the place.
        VersionGoneError: the version of a table cannot be read.
        LakeError: storage refuses, or another kind of table is at a table's place.
    """
    statement = parse_statement(sql)
    names = statement.names
    keywords = [token.keyword for token in statement.tokens]
    described = next((table for table in tables if table.name == statement.tokens[-1].name), None)
    all_of_them = "information_schema" in names or statement.keyword == "SHOW"
    lakes = {"": lake} if isinstance(lake, Lake) else lake
    snapshots = {}
    for table in tables:
        if all_of_them or table.name in names:
            by_service = _open_snapshots(lakes, table, as_of or AsOf())
            if by_service:
                snapshots[table.name] = by_service
            elif not all_of_them and table.name not in _find_defined_names(statement):
                places = " or ".join(dict.fromkeys(each.uri(table) for each in lakes.values()))
                raise statement.refuse(
                    f"There is no table {table.name} at {places}. Materialise the asset {table.name}; if the "
                    "tables lie elsewhere, set DICOM_STORAGE_URL, DICOM_CONTAINER_NAME and "
                    f"DICOM_{table.name.upper()}_TABLE_PATH.",
                    statement.find(table.name),
                    known={table.name},
                )
    question = _Question(lakes, statement, tables, snapshots, memory or MemoryLimit())
    if keywords == ["SHOW", "TABLES"]:
        return QueryResult(question, list_tables(lakes, snapshots.values()).to_reader())
    if keywords[:-1] in (["DESCRIBE"], ["DESC"]) and described is not None:
        return QueryResult(question, list_columns(snapshots[described.name], described).to_reader())
    try:
        return QueryResult(question, question.execute(statement.body))
    except _FAILURES as failure:
        error = failure
    raise question.explain(error)


def _register_shared(builder: QueryBuilder, name: str, by_service: Mapping[str, Snapshot]) -> QueryBuilder:
    """Register a table that several services share, and a view of each service's rows.

    If a query sees one service only, the table's name is the view of this service.
    """
    whole = name
    if "" in by_service:
        _execute(builder, f"CREATE SCHEMA IF NOT EXISTS {_SHARED}")
        whole = f"{_SHARED}.{name}"
    builder = builder.register(whole, next(iter(by_service.values())).connect())
    for service, snapshot in by_service.items():
        view = f"{service}.{name}" if service else name
        rows = f"SELECT * EXCEPT ({_SERVICE}) FROM {whole} WHERE {_SERVICE} = '{snapshot.scope.service}'"  # noqa: S608
        _execute(builder, f"CREATE VIEW {view} AS {rows}")
    return builder


def _execute(builder: QueryBuilder, statement: str) -> None:
    pa.RecordBatchReader.from_stream(builder.execute(statement)).read_all()


def _open_snapshots(lakes: Mapping[str, Lake], table: Table, as_of: AsOf) -> dict[str, Snapshot]:
    newest = {service: snapshot for service, lake in lakes.items() if (snapshot := lake.open(table)) is not None}
    asked = {service: open_at(lakes[service], snapshot, as_of.choose(table)) for service, snapshot in newest.items()}
    found = {service: snapshot for service, snapshot in asked.items() if snapshot is not None}
    if newest and not found:
        raise VersionGoneError(f"The table {table.name} was created later than the time that is asked for.")
    return found


def _find_defined_names(statement: Statement) -> set[str]:
    """Return the names that the statement itself defines, with AS before or after the name."""
    pairs = list(pairwise(statement.tokens))
    before = {one.name for one, other in pairs if other.keyword == "AS"}
    return before | {other.name for one, other in pairs if one.keyword == "AS"}


def _simplify_type(kind: pa.DataType) -> pa.DataType:
    """Return a type that every reader knows: no views, and no nanoseconds, which the tables do not have."""
    if pa.types.is_list(kind):
        return pa.list_(_simplify_type(kind.value_type))
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return next((plain for is_such, plain in _SIMPLE_TYPES if is_such(kind)), kind)


_SIMPLE_TYPES = (
    (pa.types.is_string_view, pa.string()),
    (pa.types.is_binary_view, pa.binary()),
    (pa.types.is_time64, pa.time64("us")),
    (pa.types.is_duration, pa.duration("us")),
)
