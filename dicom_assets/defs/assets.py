"""The five assets, in the order in which a change reaches them."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import dagster as dg

from dicom_assets.adapters.derive import AggregateOfWindow, HoursOf, InstancesOfWindow
from dicom_assets.adapters.extract import HourRead
from dicom_assets.core.file_index import build_file_index
from dicom_assets.core.schema import Table
from dicom_assets.core.series import build_series
from dicom_assets.core.study import build_studies
from dicom_assets.defs.partitions import partition_key, to_window
from dicom_assets.defs.progress import Progress
from dicom_assets.defs.resources import DicomServiceResource

POOL = "dicom_lake"
"""The pool of every step that writes the tables: its limit is how many may do so at a time."""


def build_assets(
    tables: Mapping[str, Table],
    partitions: dg.PartitionsDefinition[str],
    uris: Mapping[str, str],
    file_system: str | None,
) -> list[dg.AssetsDefinition]:
    """The assets `change_feed`, `instance`, `series`, `study` and `file_index`.

    Args:
        tables: by name, with the users' columns.
        partitions: hours.
        uris: location by table name.
        file_system: what stands before a `filePath` to make its full location; None where it is not known.
    """

    def common(name: str, *kinds: str) -> dict[str, Any]:
        return {
            "group_name": "dicom",
            "io_manager_key": "delta",
            "kinds": {"deltalake", *kinds},
            "partitions_def": partitions,
            "backfill_policy": dg.BackfillPolicy.single_run(),
            "pool": POOL,
            "metadata": {
                "dagster/table_name": name,
                "dagster/uri": uris[name],
                "dagster/column_schema": describe_columns(tables[name]),
            },
        }

    @dg.asset(**common("change_feed", "azure"))
    def change_feed(
        context: dg.AssetExecutionContext, dicom_service: dg.ResourceParam[DicomServiceResource]
    ) -> dg.MaterializeResult[Any]:
        """One row is one entry of the service's change feed, verbatim: its metadata is the DICOM JSON as received.

        Reading an hour again replaces its rows by what the service says now; an entry that turned up late is added,
        none is lost.
        """
        window = to_window(context.partition_time_window)
        progress = Progress(window, context.log.info, time.monotonic)

        def report(read: HourRead) -> None:
            context.add_asset_metadata(describe_hour(read), partition_key=partition_key(read.hour))
            progress.advance(read)

        selection = context.run.asset_selection
        decodes = selection is None or dg.AssetKey("instance") in selection
        wanted = tables["instance"] if decodes else None
        return dg.MaterializeResult(value=dicom_service.extract(window, report, wanted, progress.advance_within))

    @dg.asset(**common("instance"))
    def instance(change_feed: HoursOf) -> dg.MaterializeResult[Any]:
        """One row is one live SOP instance with its current attributes.

        Of every instance that changed in the hour it holds the newest entry that was ever read, whichever hour that
        lies in: hours may run in any order, and again. An instance whose newest entry is a delete has no row.
        """
        return dg.MaterializeResult(value=InstancesOfWindow(change_feed, tables["instance"]))

    @dg.asset(**common("series"))
    def series(instance: HoursOf) -> dg.MaterializeResult[Any]:
        """One row is one series with at least one live instance, and the attributes of its newest one."""
        build = partial(build_series, table=tables["series"])
        return dg.MaterializeResult(value=AggregateOfWindow(instance, tables["series"], build))

    @dg.asset(**common("study"), deps=[series])
    def study(instance: HoursOf) -> dg.MaterializeResult[Any]:
        """One row is one study with at least one live instance, and the attributes of its newest one."""
        build = partial(build_studies, table=tables["study"])
        return dg.MaterializeResult(value=AggregateOfWindow(instance, tables["study"], build))

    @dg.asset(**common("file_index"))
    def file_index(instance: HoursOf) -> dg.MaterializeResult[Any]:
        """One row is one live instance that has a DICOM file, and where the file lies."""
        build = partial(build_file_index, file_system=file_system)
        return dg.MaterializeResult(value=AggregateOfWindow(instance, tables["file_index"], build))

    return [change_feed, instance, series, study, file_index]


def describe_columns(table: Table) -> dg.TableSchema:
    """The table's columns for Dagster: types, comments, and the DICOM tag as a tag."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.type_name,
                description=column.comment,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
                tags={"dicom_tag": column.tag} if column.tag else {},
            )
            for column in table.columns
        ]
    )


def describe_hour(read: HourRead) -> dict[str, int]:
    """Numbers of an hour of the feed."""
    return {
        "dagster/partition_row_count": read.entries,
        "pages": read.pages,
        **{f"action/{name.lower()}": count for name, count in sorted(read.actions.items())},
        **{f"state/{name.lower()}": count for name, count in sorted(read.states.items())},
    }
