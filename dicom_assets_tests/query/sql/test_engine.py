"""SQL over a lake in a folder: answers, and what is said where there is none."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, Field
from deltalake.schema import PrimitiveType

from dicom_assets.core.columns.schema import INSTANCE, STUDY, TABLES, Column
from dicom_assets.core.errors import LakeQueryError, LakeUnavailableError, VersionGoneError
from dicom_assets.core.memory import MemoryLimit
from dicom_assets.lake.table.delta import Lake
from dicom_assets.query.sql.engine import AsOf, ask
from dicom_assets_tests.lakes.building import build_lake, instance_of, store, study

SEX = "SELECT patientSex FROM study ORDER BY 1"


@pytest.fixture
def lake(tmp_path) -> Lake:
    lake = build_lake(tmp_path)
    store(lake, study("1.1", patientName="Doe^Jo", patientSex="F"), study("1.2", patientName="Roe^Al"))
    store(lake, instance_of("1.1", modality="CT"), table=INSTANCE)
    return lake


def answer(lake: Lake, sql: str, **how) -> list[tuple]:
    found = ask(lake, sql, **how)
    return [tuple(row.values()) for row in pa.Table.from_batches(found, found.schema).to_pylist()]


def test_camel_case_names_need_no_quotes_and_text_is_plain(lake):
    store(lake, study("1.1", patientName="Doe^Jo", patientSex="M"))  # merged files are where views come from
    found = ask(lake, "SELECT s.studyInstanceUid, modality FROM instance i JOIN study s USING (studyInstanceUid);")
    assert found.schema == pa.schema([("studyInstanceUid", pa.string()), ("modality", pa.string())])
    assert [batch.to_pylist() for batch in found] == [[{"studyInstanceUid": "1.1", "modality": "CT"}]]


def test_types_are_those_that_every_reader_knows(lake):
    found = ask(
        lake, "SELECT now() a, make_array(patientName) b, arrow_cast('x', 'BinaryView') c, time '01:02:03' d FROM study"
    )
    assert found.schema.types[1:] == [pa.list_(pa.string()), pa.binary(), pa.time64("us")]
    assert found.schema.types[0].unit == "us"
    assert sum(map(len, found)) == 2


def test_show_tables_and_describe_tell_what_there_is(lake):
    assert answer(lake, "SHOW TABLES") == [
        ("instance", 1, 1, lake.uri(INSTANCE)),
        ("study", 2, 1, lake.uri(STUDY)),
    ]
    described = answer(lake, "DESCRIBE study")
    assert described[3] == ("studyDate", "date", "00080020", "Date the study started")
    assert len(described) == len(STUDY.schema)
    assert len(answer(lake, "SHOW COLUMNS FROM study")) == len(STUDY.schema)
    assert ask(lake, "EXPLAIN SELECT 1").is_plan


def test_columns_of_users_are_there_and_one_that_is_not_stored_yet_is_told(lake):
    DeltaTable(lake.uri(STUDY)).alter.add_columns([Field("kvp", PrimitiveType("double"))])
    own = replace(
        STUDY, columns=(*STUDY.columns, Column("kvp", pa.float64(), "KVP"), Column("dose", pa.float64(), "Dose"))
    )
    tables = [own if table is STUDY else table for table in TABLES]
    assert answer(lake, "SELECT kvp FROM study", tables=tables) == [(None,), (None,)]
    assert ("kvp", "double", None, "KVP") in answer(lake, "DESCRIBE study", tables=tables)
    with pytest.raises(LakeQueryError, match="The settings declare it, but study was not written since"):
        ask(lake, "SELECT dose FROM study", tables=tables)


def test_older_versions_are_asked_by_number_and_by_time(lake):
    store(lake, study("1.1", patientSex="M"))
    log = Path(lake.uri(STUDY)) / "_delta_log"
    assert [sex for (sex,) in answer(lake, SEX)] == ["M", None]
    assert [sex for (sex,) in answer(lake, SEX, as_of=AsOf(versions={"study": 1}))] == ["F", None]
    then = datetime.fromtimestamp((log / f"{1:020}.json").stat().st_mtime, UTC)
    assert [sex for (sex,) in answer(lake, SEX, as_of=AsOf(then))] == ["F", None]
    with pytest.raises(VersionGoneError, match="study was created later than the time"):
        ask(lake, SEX, as_of=AsOf(datetime(2020, 1, 1, tzinfo=UTC)))
    with pytest.raises(VersionGoneError, match="There is no version 7 of study yet"):
        ask(lake, SEX, as_of=AsOf(versions={"study": 7}))


def test_rows_are_counted_by_another_query_only_where_that_is_the_same(lake):
    assert ask(lake, "SELECT * FROM study -- all\n;").count() == 2
    assert ask(lake, "SELECT a.*, b.* FROM study a, study b").count() in (4, None)
    assert ask(lake, "SHOW TABLES").count() is None


def test_rows_come_before_all_are_computed(lake):
    found = iter(ask(lake, "SELECT a.value FROM generate_series(1, 3000000000) a"))
    assert len(next(found)) <= 10_000


def test_writing_is_refused_and_leaves_nothing(lake, tmp_path):
    target = tmp_path / "out.csv"
    for sql in (f"COPY study TO '{target}'", f"EXPLAIN ANALYZE COPY study TO '{target}'"):
        with pytest.raises(LakeQueryError, match="Only statements that read"):
            ask(lake, sql)
    assert not target.exists()


def test_missing_table_says_what_to_do_at_its_place(lake):
    with pytest.raises(LakeQueryError) as caught:
        ask(lake, "SELECT * FROM series")
    assert re.fullmatch(
        r"There is no table series at /.*/series\. Materialise the asset series; if the tables lie elsewhere, set "
        r"DICOM_STORAGE_URL, .* and DICOM_SERIES_TABLE_PATH\.\n\n  SELECT \* FROM series\n {16}\^{6}",
        str(caught.value),
    )
    assert answer(lake, "WITH series AS (SELECT 1 AS n) SELECT n AS file_index FROM series") == [(1,)]


@pytest.mark.parametrize(
    ("sql", "reason", "marked"),
    [
        ("SELECT patientNam FROM study", "no column patientNam in study. Did you mean patientName?", "patientNam"),
        ("SELECT s.studydate FROM study s", "Did you mean studyDate? Capitals count.", "studydate"),
        ("SELECT filePath FROM study", "It is in change_feed, instance, file_index: join", "filePath"),
        ("SELECT qqqq FROM study", "There is no column qqqq in study. DESCRIBE study lists", "qqqq"),
        ("SELECT qqqq", "There is no column qqqq.", "qqqq"),
        ('SELECT 1 FROM study WHERE patientName = "Doe^Jo"', "no such column in study. Double quotes are", '"………………"'),
        ("SELECT *\nFROM studdy", "There is no table studdy. Did you mean study?", "studdy"),
        ("SELECT * FROM elsewhere", "There is no table elsewhere. Tables are change_feed, instance", "elsewhere"),
        ("SELECT * FROM 'Doe^Jo'", "There is no such table.", "'………………'"),
        ("SELECT lenth(patientName) FROM study", "There is no function lenth. Did you mean", "lenth"),
        ("SELECT lower(1, 2)", "cannot be used like this: it expects 1 arguments but received 2", "lower"),
        ("SELECT sum(patientName) FROM study", "its arguments are of other types or another number", "sum"),
        ("SELECT 1 FROM study WHERE x ==== 3", "This is not SQL: an expression is expected here", "="),
        ("SELECT count(* FROM study", "This is not SQL: ) is expected here", "FROM"),
        ("SELECT 'Doe^Jo", "a quote is opened here and not closed", "'………………"),
        ("SELECT 1 FROM study WHERE", "something is missing behind its end", "WHERE"),
        ("SELECT studyInstanceUid FROM study, instance", "More than one table has the column", "studyInstanceUid"),
        ("SELECT modality, count(*) FROM instance", "The column modality is neither grouped nor", "modality"),
        ("SELECT 1 FROM study WHERE studyDate > 'Doe^Jo'", "read as a date, such as '2026-03-01'", "'………………'"),
        ("SELECT CAST(patientName AS int) FROM study", "A value of the tables cannot be read as Int32. TRY", "CAST"),
        ("SELECT patientName::int FROM study", "A value of the tables cannot be read as Int32. TRY_CAST", ":"),
        ("SELECT 1 / (seriesCount - 1) FROM study", "failed at a row: Divide by zero", "/"),
    ],
)  # fmt: skip
def test_error_says_why_and_shows_the_place(lake, sql, reason, marked):
    with pytest.raises(LakeQueryError) as caught:
        answer(lake, sql)
    said, _, excerpt = str(caught.value).partition("\n\n")
    shown, mark = excerpt.split("\n")
    assert reason in said
    assert shown[mark.index("^") : mark.index("^") + mark.count("^")] == marked
    assert "Doe" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT * FROM study LIMIT 'Doe^Jo'", "could not answer the query: Expected LIMIT to be an integer"),
        ("SELECT $1", "Placeholder '…' was not provided"),
        ("SELECT CAST(patientName AS int) + CAST(1 AS int) FROM study", "A value of the tables cannot be read as"),
        ("SELECT date_trunc(patientName, lastModifiedTimestamp) FROM study", "failed at a row. A value is not"),
        ("SELECT 1 / (seriesCount - 1) / 2 FROM study", "failed at a row: Divide by zero"),
    ],
)
def test_error_without_a_place_says_why_without_values(lake, sql, reason):
    with pytest.raises(LakeQueryError) as caught:
        answer(lake, sql)
    assert reason in str(caught.value)
    assert "^" not in str(caught.value)
    assert not re.search("Doe|Roe", str(caught.value))


def test_file_that_was_vacuumed_is_told(lake):
    next(Path(lake.uri(STUDY)).glob("*.parquet")).unlink()
    with pytest.raises(LakeUnavailableError, match=r"A file of the tables is gone .* vacuumed"):
        answer(lake, "SELECT * FROM study")


LARGE = "SELECT value, repeat('x', 200) AS text FROM generate_series(1, 200000) ORDER BY value % 1000, value"
"""Sorted, more than 40 MB."""


def test_what_memory_may_not_hold_is_sorted_all_the_same(lake):
    found = ask(lake, LARGE, memory=MemoryLimit(512 + 16))
    values = [value for batch in found for value in batch["value"].to_pylist()]
    assert values == sorted(range(1, 200_001), key=lambda value: (value % 1000, value))


def test_query_that_the_limit_is_too_small_for_says_which_setting_it_is(lake):
    with pytest.raises(LakeQueryError, match="more at once than DICOM_MAX_MEMORY_MB"):
        answer(lake, LARGE, memory=MemoryLimit(512 + 1))
