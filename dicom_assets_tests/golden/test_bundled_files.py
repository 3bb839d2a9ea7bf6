"""pydicom's bundled files through the embedded service and the assets: the rows are those of `expected.json`.

The file holds what the reference fold makes of the service's feed, nulls left out. Write it anew with
`python -m dicom_assets_tests.golden.test_bundled_files`, and read the difference.
"""

import json
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest

from dicom_assets.emulator.datasets.sources import bundled_files
from dicom_assets.emulator.store.store import Service
from dicom_assets_tests.lakes.building import build_lake
from dicom_assets_tests.law.world import START, World, hours, read_tables

EXPECTED = Path(__file__).with_name("expected.json")


def load(folder: Path) -> World:
    """A lake that holds the bundled files, one second apart."""
    service = Service(seed=1, file_store=folder / "files")
    for second, file in enumerate(bundled_files()):
        file.store(service, at=START + timedelta(seconds=second))
    world = World(service, build_lake(folder / "lake"), page_size=200)
    world.run_chain(hours(0))
    return world


def to_json(tables: dict[str, list[dict]]) -> dict[str, list[dict]]:
    return {
        name: [
            {column: value if isinstance(value, int | str) else value.isoformat() for column, value in row.items()
             if value is not None}
            for row in rows
        ]
        for name, rows in tables.items()
    }  # fmt: skip


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return to_json(read_tables(load(tmp_path_factory.mktemp("golden")).lake))


@pytest.mark.parametrize("name", ["instance", "series", "study", "file_index"])
def test_rows_of_the_bundled_files_are_the_expected_ones(name, tables):
    assert tables[name] == json.loads(EXPECTED.read_text())[name]


def test_every_bundled_file_lies_where_its_path_says(tmp_path):
    world = load(tmp_path)
    paths = [row["filePath"] for row in read_tables(world.lake)["file_index"]]
    assert len(paths) > 100
    assert all((tmp_path / "files" / path).read_bytes()[128:132] == b"DICM" for path in paths)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        EXPECTED.write_text(json.dumps(to_json(load(Path(name)).expected()), indent=1, ensure_ascii=False) + "\n")
