"""Checks of the tables against one another."""

import dagster as dg
import pyarrow.compute as pc

from dicom_assets.adapters.delta import Lake
from dicom_assets.core.schema import FILE_INDEX, INSTANCE, SERIES, STUDY, Table


def build_checks(lake: Lake) -> list[dg.AssetChecksDefinition]:
    """The checks of one lake."""

    @dg.asset_check(asset="study", additional_deps=["series", "instance"], description="Counts agree between tables.")
    def instance_counts_agree() -> dg.AssetCheckResult:
        """Whether series and studies count as many instances as there are, and studies as many series."""
        counts = {
            "instances": _rows(lake, INSTANCE),
            "instances_in_series": _total(lake, SERIES, "instanceCount"),
            "instances_in_studies": _total(lake, STUDY, "instanceCount"),
            "series": _rows(lake, SERIES),
            "series_in_studies": _total(lake, STUDY, "seriesCount"),
        }
        passed = (
            counts["instances"] == counts["instances_in_series"] == counts["instances_in_studies"]
            and counts["series"] == counts["series_in_studies"]
        )
        return dg.AssetCheckResult(passed=passed, metadata=counts)

    @dg.asset_check(asset="file_index", additional_deps=["instance"], description="Every instance's file is indexed.")
    def files_agree() -> dg.AssetCheckResult:
        """Whether the file index has a row for every instance with a file, and no other."""
        snapshot = lake.open(INSTANCE)
        with_file = 0 if snapshot is None else pc.count(snapshot.read_table(["filePath"])["filePath"]).as_py()
        counts = {"instances_with_file": with_file, "files": _rows(lake, FILE_INDEX)}
        return dg.AssetCheckResult(passed=counts["instances_with_file"] == counts["files"], metadata=counts)

    return [instance_counts_agree, files_agree]


def _rows(lake: Lake, table: Table) -> int:
    snapshot = lake.open(table)
    return 0 if snapshot is None else snapshot.row_count


def _total(lake: Lake, table: Table, column: str) -> int:
    snapshot = lake.open(table)
    return 0 if snapshot is None else pc.sum(snapshot.read_table([column])[column]).as_py() or 0
