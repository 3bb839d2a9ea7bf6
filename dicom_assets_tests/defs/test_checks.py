import dagster as dg
import pytest

from dicom_assets.adapters.delta import Lake
from dicom_assets.core.schema import FILE_INDEX, INSTANCE, SERIES, STUDY
from dicom_assets.core.series import build_series
from dicom_assets.core.study import build_studies
from dicom_assets.defs.checks import build_checks
from dicom_assets_tests.adapters.lakes import build_lake, instance_of, instances, store


@pytest.fixture
def lake(tmp_path) -> Lake:
    """Two studies; of three instances two have a file."""
    lake = build_lake(tmp_path)
    rows = [instance_of("1", 1, filePath="a"), instance_of("1", 2, filePath="b"), instance_of("2", 3)]
    store(lake, *rows, table=INSTANCE)
    store(lake, *build_series(instances(*rows)).to_pylist(), table=SERIES)
    store(lake, *build_studies(instances(*rows)).to_pylist(), table=STUDY)
    store(lake, *(row for row in rows if "filePath" in row), table=FILE_INDEX)
    return lake


def evaluate(lake: Lake) -> dict[str, dg.AssetCheckResult]:
    return {next(iter(check.check_keys)).name: check() for check in build_checks(lake)}


def passed(lake: Lake) -> dict[str, bool]:
    return {name: result.passed for name, result in evaluate(lake).items()}


def test_right_lake_passes(lake):
    results = evaluate(lake)
    assert {name: result.passed for name, result in results.items()} == {
        "instance_counts_agree": True,
        "files_agree": True,
    }
    assert {key: value.value for key, value in results["instance_counts_agree"].metadata.items()} == {
        "instances": 3,
        "instances_in_series": 3,
        "instances_in_studies": 3,
        "series": 2,
        "series_in_studies": 2,
    }
    assert {key: value.value for key, value in results["files_agree"].metadata.items()} == {
        "instances_with_file": 2,
        "files": 2,
    }


def test_lake_without_tables_passes_and_stays_without(tmp_path):
    assert passed(build_lake(tmp_path)) == {"instance_counts_agree": True, "files_agree": True}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("table", "predicate", "failing"),
    [
        (INSTANCE, "sopInstanceUid = '1.1.3'", {"instance_counts_agree"}),
        (INSTANCE, "sopInstanceUid = '1.1.1'", {"instance_counts_agree", "files_agree"}),
        (SERIES, "studyInstanceUid = '2'", {"instance_counts_agree"}),
        (STUDY, "studyInstanceUid = '2'", {"instance_counts_agree"}),
        (FILE_INDEX, "filePath = 'a'", {"files_agree"}),
    ],
)
def test_row_that_is_missing_fails_the_checks_of_its_table(lake, table, predicate, failing):
    lake.open(table).delta.delete(predicate)
    assert {name for name, good in passed(lake).items() if not good} == failing
