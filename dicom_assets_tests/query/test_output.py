import csv
import io
import json
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dicom_assets.core.errors import LakeQueryError, SettingsError
from dicom_assets.query import output
from dicom_assets.query.formats import Format
from dicom_assets.query.output import open_output, write_rows

KINDS = {"text": pa.string(), "n": pa.int64(), "day": pa.date32(), "at": pa.timestamp("us", "UTC")}
SCHEMA = pa.schema([*KINDS.items(), ("list", pa.list_(pa.string()))])
FIRST = ('a "quoted", Größe', 1, date(2026, 3, 1), datetime(2026, 3, 1, 2, tzinfo=UTC), ["x", "y"])
ROWS = [
    dict(zip(SCHEMA.names, FIRST, strict=True)),
    dict.fromkeys(SCHEMA.names),
    {"text": "", "n": 2**40, "day": None, "at": None, "list": []},
]


def batches(times: int = 1) -> list[pa.RecordBatch]:
    return [pa.RecordBatch.from_pylist(ROWS, SCHEMA)] * times


def written(kind: Format, times: int = 1) -> bytes:
    sink = io.BytesIO()
    assert write_rows(batches(times), SCHEMA, kind, sink) == {"rows": 3 * times}
    return sink.getvalue()


def test_csv_tells_null_from_empty_text_and_has_lists_as_json():
    text = written(Format.CSV).decode()
    assert text.splitlines()[2:] == [",,,,", '"",1099511627776,,,"[]"']
    header, first, *_ = csv.reader(io.StringIO(text))
    assert header == SCHEMA.names
    assert first == ['a "quoted", Größe', "1", "2026-03-01", "2026-03-01 02:00:00.000000Z", '["x","y"]']


@pytest.mark.parametrize("kind", [Format.JSON, Format.JSONL])
def test_json_has_times_in_iso_8601(kind):
    content = written(kind, 2)
    rows = json.loads(content) if kind is Format.JSON else [json.loads(line) for line in content.splitlines()]
    assert rows[0] == rows[3] == {**ROWS[0], "day": "2026-03-01", "at": "2026-03-01T02:00:00Z"}
    assert rows[1:3] == ROWS[1:]


def test_json_of_no_rows_is_an_empty_array():
    sink = io.BytesIO()
    write_rows([], SCHEMA, Format.JSON, sink)
    assert json.loads(sink.getvalue()) == []


def test_parquet_has_groups_of_many_batches(monkeypatch):
    content = written(Format.PARQUET, 9)
    assert pq.read_table(io.BytesIO(content)).to_pylist() == ROWS * 9
    assert pq.ParquetFile(io.BytesIO(content)).num_row_groups == 1
    monkeypatch.setattr(output, "_BYTES_PER_GROUP", batches()[0].nbytes * 4)
    assert pq.ParquetFile(io.BytesIO(written(Format.PARQUET, 9))).num_row_groups == 3


@pytest.mark.parametrize("kind", [Format.CSV, Format.JSON, Format.JSONL])
def test_rows_are_written_before_the_next_ones_are_read(kind):
    sink = io.BytesIO()

    def stream():
        yield batches()[0]
        assert b"quoted" in sink.getvalue()
        yield batches()[0]

    write_rows(stream(), SCHEMA, kind, sink)


def test_rows_are_counted_by_a_column():
    kinds = pa.record_batch({"kind": ["a", "b", "a"]})
    assert write_rows([kinds, kinds], kinds.schema, Format.CSV, io.BytesIO(), count_by="kind") == {"a": 4, "b": 2}


def test_columns_of_one_name_are_refused_where_names_count():
    twice = pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2])], names=["n", "n"])
    with pytest.raises(LakeQueryError, match="More than one column is named n"):
        write_rows([twice], twice.schema, Format.JSON, io.BytesIO())
    sink = io.BytesIO()
    write_rows([twice], twice.schema, Format.CSV, sink)
    assert sink.getvalue() == b'"n","n"\n1,2\n'


def test_interval_is_text_in_csv_and_refused_in_parquet():
    spans = pa.record_batch({"span": pa.array([(1, 2, 3)], pa.month_day_nano_interval())})
    sink = io.BytesIO()
    write_rows([spans], spans.schema, Format.CSV, sink)
    assert sink.getvalue() == b'"span"\n"[1,2,3]"\n'
    with pytest.raises(LakeQueryError, match="cast intervals"):
        write_rows([spans], spans.schema, Format.PARQUET, io.BytesIO())


def test_file_appears_when_it_is_complete_and_stays_as_it_was_when_not(tmp_path):
    path = tmp_path / "out.csv"
    with open_output(path) as sink:
        sink.write(b"first")
        assert not path.exists()
    with pytest.raises(RuntimeError), open_output(path) as sink:  # noqa: PT012
        sink.write(b"second")
        raise RuntimeError
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_file_that_cannot_be_written_is_told(tmp_path):
    with (
        pytest.raises(SettingsError, match=r"Cannot write .*No such file or directory"),
        open_output(tmp_path / "nowhere" / Path("out.csv")),
    ):
        pass
