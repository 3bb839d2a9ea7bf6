import pyarrow as pa

from dicom_assets.lake.table.decoded import Decoded


def attributes(value: int) -> pa.Table:
    return pa.table({"rows": pa.array([value] * 10, pa.int32())})


def test_what_is_kept_is_found_by_file():
    decoded = Decoded()
    decoded.keep("a", attributes(1))
    decoded.keep("b", attributes(2))
    assert decoded.find("a", attributes(0).schema) == attributes(1)
    assert decoded.find("c", attributes(0).schema) is None


def test_other_columns_are_not_what_is_wanted():
    decoded = Decoded()
    decoded.keep("a", attributes(1))
    assert decoded.find("a", pa.schema([("columns", pa.int32())])) is None


def test_the_oldest_make_room():
    decoded = Decoded(limit_bytes=2 * attributes(0).nbytes)
    for value, file in enumerate("abc"):
        decoded.keep(file, attributes(value))
    assert [decoded.find(file, attributes(0).schema) is None for file in "abc"] == [True, False, False]
