import pytest

from dicom_assets.core.columns.schema import FILE_INDEX
from dicom_assets.core.tables.file_index import build_file_index
from dicom_assets_tests.core.tables.rows import build_instance_rows, instance


def test_instances_with_a_file_in_their_order():
    rows = build_instance_rows(instance(3, filePath="c.dcm"), instance(1), instance(2, filePath="b.dcm"))
    table = build_file_index(rows, None)
    assert table.schema.equals(FILE_INDEX.schema, check_metadata=True)
    assert table["sequence"].to_pylist() == [3, 2]
    assert table["filePath"].to_pylist() == ["c.dcm", "b.dcm"]
    assert table["fileUrl"].to_pylist() == [None, None]


@pytest.mark.parametrize(
    ("file_system", "url"),
    [
        ("abfss://dicom@account.dfs.core.windows.net", "abfss://dicom@account.dfs.core.windows.net/AHDS/a b.dcm"),
        ("/srv/files/", "/srv/files/AHDS/a b.dcm"),
    ],
)
def test_location_is_the_file_system_and_the_path(file_system, url):
    rows = build_instance_rows(instance(filePath="AHDS/a b.dcm"))
    assert build_file_index(rows, file_system)["fileUrl"].to_pylist() == [url]


@pytest.mark.parametrize("file_system", [None, "/files"])
def test_no_instances_have_no_files(file_system):
    assert len(build_file_index(build_instance_rows(), file_system)) == 0
