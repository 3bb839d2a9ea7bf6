import random

import hypothesis.strategies as st
import pyarrow as pa
from hypothesis import given, settings

from dicom_assets.core.tables.fold import find_newest_rows, summarize_newest

SCHEMA = pa.schema([("key", pa.string()), ("part", pa.string()), ("order", pa.int64()), ("then", pa.int64())])
rows_of = st.lists(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from("ab"),
            "part": st.sampled_from("xy"),
            "order": st.integers(0, 3),
            "then": st.integers(0, 2),
        }
    ),
    max_size=12,
)


def table(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, SCHEMA)


def newest(rows: list[dict]) -> list[dict]:
    return find_newest_rows(table(rows), ["key", "part"], ["order", "then"]).to_pylist()


@given(rows=rows_of, randomness=st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_newest_rows_are_the_same_for_any_order_and_repetition(rows, randomness: random.Random):
    mixed = rows + [row for row in rows if randomness.random() < 0.5]
    randomness.shuffle(mixed)
    expected: dict = {}
    for row in sorted(rows, key=lambda row: (row["order"], row["then"])):
        expected[row["key"], row["part"]] = row
    by_key = lambda found: sorted(found, key=lambda row: (row["key"], row["part"]))  # noqa: E731
    assert by_key(newest(rows)) == by_key(newest(mixed)) == by_key(expected.values())


def test_oldest_key_comes_first():
    rows = [{"key": key, "part": "x", "order": order, "then": 0} for key, order in [("a", 3), ("b", 1), ("c", 2)]]
    assert [row["key"] for row in newest(rows)] == ["b", "c", "a"]


def test_no_rows_have_no_newest():
    assert newest([]) == []


def test_totals_lie_beside_their_key():
    rows = [{"key": key, "part": "x", "order": order, "then": order * 10} for key in "ab" for order in (2, 1)]
    first, totals = summarize_newest(table(rows), ["key"], ["order"], [([], "count_all"), ("then", "sum")])
    assert first["key"].to_pylist() == totals["key"].to_pylist()
    assert first["order"].to_pylist() == [2, 2]
    assert totals["count_all"].to_pylist() == [2, 2]
    assert totals["then_sum"].to_pylist() == [30, 30]
