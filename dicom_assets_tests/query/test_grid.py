import io

import pyarrow as pa
import pytest
from rich.console import Console

from dicom_assets.query.grid import show_plan, show_rows

UID = "2.25." + "1234567890" * 5 + "123456789"


def shown(rows: list[dict], width: int = 80, **how) -> str:
    console = Console(file=io.StringIO(), width=width)
    table = pa.Table.from_pylist(rows)
    show_rows(console, table.schema, table.to_batches(), **how)
    return console.file.getvalue()


def test_table_has_names_types_and_null_that_is_no_text():
    lines = shown([{"name": "NULL", "n": 1}, {"name": None, "n": None}, {"name": "", "n": 12}]).splitlines()
    assert [line.strip("┃│ ").split() for line in lines[1:3]] == [["name", "┃", "n"], ["string", "┃", "long"]]
    assert lines[4:7] == ["│ NULL   │    1 │", "│ NULL   │ NULL │", "│        │   12 │"]
    assert lines[-1] == "3 rows."


def test_null_looks_different_from_the_text():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="truecolor")
    table = pa.table({"a": ["NULL", None]})
    show_rows(console, table.schema, table.to_batches())
    first, second = [line for line in console.file.getvalue().splitlines() if "NULL" in line]
    assert first != second


def test_uid_is_neither_cut_nor_folded():
    assert UID in shown([{"uid": UID}])
    blocks = shown([{"uid": UID, "path": "a/b/" * 10}])
    assert "row 1" in blocks
    assert f"uid   {UID}" in blocks


def test_prose_is_folded_where_that_makes_the_table_fit():
    text = shown([{"name": "a" * 30, "meaning": "some words that go on and on until they are too many"}], width=70)
    assert "row 1" not in text
    assert all(len(line) <= 70 for line in text.splitlines())


def test_long_value_is_cut_where_there_is_no_room_and_that_is_said():
    text = shown([{"metadata": "{" + "x" * 200}], width=80)
    assert "x" * 62 + "…" in text
    assert "x" * 64 not in text
    assert "Long values are cut (…): --format gives them whole." in text
    assert "x" * 200 in shown([{"metadata": "{" + "x" * 200}], width=220)
    assert "x" * 240 not in shown([{"metadata": "{" + "x" * 500}], width=1000)


def test_blocks_show_every_column_of_the_first_rows():
    text = shown([{f"column{number}": f"value{number}" for number in range(30)}] * 12)
    assert text.count("value29") == 10
    assert "10 of 12 rows; 2 more are not shown" in text


@pytest.mark.parametrize(("limit", "rows"), [(None, 50), (3, 3), (0, 60), (60, 60)])
def test_limit_says_how_many_more_there_are(limit, rows):
    text = shown([{"n": number} for number in range(60)], limit=limit)
    assert text.count("│") == 2 * rows
    assert (f"{rows} of 60 rows; {60 - rows} more are not shown: --rows 0 shows all" in text) == (rows < 60)


def test_total_is_asked_for_instead_of_reading_on():
    def stream():
        yield pa.record_batch({"n": list(range(100))})
        raise AssertionError

    console = Console(file=io.StringIO(), width=80)
    show_rows(console, pa.schema([("n", pa.int64())]), stream(), count=lambda: 123456)
    assert "50 of 123,456 rows" in console.file.getvalue()


def test_characters_that_steer_a_terminal_are_spelt_out():
    text = shown([{"name": "a\x1b[31mred\nb", "\x1b": 1}])
    assert "\x1b" not in text
    assert r"a\x1b[31mred\nb" in text


def test_values_that_are_no_text_have_a_form():
    text = shown([{"list": ["a", "b"], "flag": True, "bytes": b"x", "double": 1.5}])
    for form in ('["a","b"]', "true", '"eA=="', "1.5", "list<string>", "double"):
        assert form in text


def test_plan_keeps_its_lines():
    console = Console(file=io.StringIO(), width=20)
    show_plan(console, [pa.record_batch({"plan_type": ["logical"], "plan": ["a long line of the plan\n  below"]})])
    assert console.file.getvalue() == "logical\na long line of the plan\n  below\n"
