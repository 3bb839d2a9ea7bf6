"""The assets, in the order in which a change reaches them."""

import time
from collections.abc import Collection, Iterator, Mapping
from datetime import timedelta
from typing import Any

import dagster as dg

from dicom_assets.core.columns.schema import Column, Table
from dicom_assets.core.memory import MemoryLimit
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.defs.assets.freshness import build_freshness_policy
from dicom_assets.defs.assets.lineage import build_lineage
from dicom_assets.defs.assets.resources import DicomServiceResource
from dicom_assets.defs.checks.checks import (
    build_specs,
    check_agreement,
    check_feed,
    check_instances,
    check_metadata,
    check_values,
)
from dicom_assets.defs.checks.failure import retrying
from dicom_assets.defs.checks.same_lake import require_same_lake
from dicom_assets.defs.checks.same_version import tag_step
from dicom_assets.defs.naming import PLAIN, Naming
from dicom_assets.defs.runs.observed import Observed, Reading
from dicom_assets.defs.runs.progress import Progress
from dicom_assets.defs.runs.resume import find_remaining
from dicom_assets.derive.derivation import build_derivation
from dicom_assets.derive.feed_window import FeedWindow
from dicom_assets.lake.table.delta import Lake

Results = Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]
"""Results that an asset yields: its rows, then, once the rows are stored, the results of its checks."""

OWNERS = ["team:imaging-data"]

_PROJECT = "https://github.com/dicom-assets/dicom_assets/blob/main"
_STANDARD = "https://dicom.nema.org/medical/dicom/current/output/chtml"

DOCUMENTS = {
    "change_feed": {
        "docs": f"{_PROJECT}/docs/architecture.md#1-the-hour-is-read-change_feed",
        "docs/service": "https://learn.microsoft.com/azure/healthcare-apis/dicom/change-feed-overview",
        "docs/dicom_json": f"{_STANDARD}/part18/chapter_F.html",
    },
    "instance": {
        "docs": f"{_PROJECT}/docs/architecture.md#2-the-law-is-applied-instance",
        "docs/dicom": f"{_STANDARD}/part03/chapter_A.html",
    },
    **{
        name: {"docs": f"{_PROJECT}/docs/architecture.md#3-the-rest-follows-series-study-file_index"}
        for name in ("series", "study", "file_index")
    },
    HEALTHCARE_INSTANCE.name: {"docs": f"{_PROJECT}/docs/healthcare.md"},
}
"""Links to documentation, by asset."""

POOL = "dicom_lake"
"""Pool of every step that writes the tables; its limit is the number of steps that write at the same time."""


def build_assets(
    tables: Mapping[str, Table],
    partitions: dg.PartitionsDefinition[str],
    lake: Lake,
    file_system: str | None,
    *,
    delay: timedelta,
    memory: MemoryLimit,
    feed_pool: str = POOL,
    naming: Naming = PLAIN,
) -> list[dg.AssetsDefinition]:
    """Return the assets `change_feed`, `instance`, `series`, `study` and `file_index`, each with its checks.

    `healthcare_instance` follows them if `tables` contains it.

    Args:
        tables: Tables by name, with the users' columns.
        partitions: The hours.
        lake: The lake that holds the tables.
        file_system: Prefix that makes a `filePath` a full location; None where it is not known.
        delay: Wait between the end of an hour and its reading.
        memory: Memory limit for reading the feed.
        feed_pool: Pool of `change_feed`; a pool other than POOL lets hours be read while others are merged.
        naming: Names of the service's parts.
    """
    service_key = naming.name("dicom_service")

    def common(name: str, *inputs: str, kinds: Collection[str] = ()) -> dict[str, Any]:
        key = naming.key(name)
        return {
            "key": key,
            "ins": {table: dg.AssetIn(naming.key(table)) for table in inputs},
            "group_name": naming.group,
            "io_manager_key": naming.name("delta"),
            "kinds": {"dicom", "deltalake", *kinds},
            "owners": OWNERS,
            "partitions_def": partitions,
            "backfill_policy": dg.BackfillPolicy.single_run(),
            "freshness_policy": build_freshness_policy(delay),
            "pool": naming.name(POOL),
            "check_specs": build_specs(key),
            "metadata": describe_table(tables[name], lake.uri(tables[name]), naming),
            "op_tags": tag_step(tables[name]),
        }

    def observe(name: str, changes: FeedWindow) -> Observed:
        return Observed(changes, lambda part: build_derivation(tables[name], part, file_system))

    @dg.asset(
        **common("change_feed", kinds=["azure"]) | {"pool": naming.name(feed_pool)},
        required_resource_keys={service_key},
    )
    def change_feed(context: dg.AssetExecutionContext) -> Results:
        """One row is one entry of the service's change feed, verbatim: its metadata is the DICOM JSON as received.

        Every other table is made from this one, without asking the service again. Reading an hour again replaces its
        rows with the service's current entries: late entries are added, and none is lost.
        """
        selection = context.run.asset_selection  # none or empty: all assets
        decodes = not selection or naming.key("instance") in selection
        dicom_service: DicomServiceResource = getattr(context.resources, service_key)
        with retrying(context.retry_number):
            require_same_lake(context.instance, lake, [tables["change_feed"]], naming)
            remaining = find_remaining(context, dicom_service.now())
            with dicom_service.open_client() as client:
                reading = Reading(
                    client,
                    remaining,
                    dicom_service.now,
                    instance=tables["instance"] if decodes else None,
                    batch_bytes=memory.batch_bytes,
                    progress=Progress(remaining.window, context.log.info, time.monotonic),
                )
                yield dg.MaterializeResult(value=reading)
                yield check_feed(client, lake, remaining.window, reading.entries)
                yield check_metadata(*reading.unreadable, window=str(remaining.window))

    @dg.asset(**common("instance", "change_feed"))
    def instance(change_feed: FeedWindow) -> Results:
        """One row is one live SOP instance with its current attributes.

        For every instance that changed in the hour it holds the newest entry read so far, of any hour: hours may run
        in any order, and repeatedly. An instance whose newest entry is a delete has no row. A value that cannot be
        converted is null, and counted.
        """
        derived = observe("instance", change_feed)
        yield dg.MaterializeResult(value=derived)
        yield check_instances(lake, change_feed.window, derived)
        yield check_values(derived, change_feed.window)

    def aggregate(name: str, changes: FeedWindow) -> Results:
        derived = observe(name, changes)
        yield dg.MaterializeResult(value=derived)
        yield check_agreement(lake, changes.window, derived, tables[name])

    @dg.asset(**common("series", "instance"))
    def series(instance: FeedWindow) -> Results:
        """One row is one series with at least one live instance, and the attributes of its newest one."""
        yield from aggregate("series", instance)

    @dg.asset(**common("study", "instance"), deps=[series])
    def study(instance: FeedWindow) -> Results:
        """One row is one study with at least one live instance, and the attributes of its newest one."""
        yield from aggregate("study", instance)

    @dg.asset(**common("file_index", "instance"))
    def file_index(instance: FeedWindow) -> Results:
        """One row is one live instance that has a DICOM file, and where the file lies."""
        yield from aggregate("file_index", instance)

    assets = [change_feed, instance, series, study, file_index]
    if HEALTHCARE_INSTANCE.name not in tables:
        return assets

    @dg.asset(**common(HEALTHCARE_INSTANCE.name, "change_feed"))
    def healthcare_instance(change_feed: FeedWindow) -> Results:
        """One row is one live SOP instance, in the layout of Fabric's healthcare data solutions.

        It holds the instances that `instance` holds, by the same rules. Every row has the instance's full metadata.
        """
        derived = observe(HEALTHCARE_INSTANCE.name, change_feed)
        yield dg.MaterializeResult(value=derived)
        yield check_instances(lake, change_feed.window, derived, tables[HEALTHCARE_INSTANCE.name])

    return [*assets, healthcare_instance]


def describe_table(table: Table, uri: str, naming: Naming = PLAIN) -> dict[str, Any]:
    """Return a table's metadata that is known before any run: location, columns, lineage, key, links."""
    lineage = build_lineage(table, naming)
    return {
        "dagster/table_name": table.name,
        "dagster/uri": uri,
        "dagster/column_schema": describe_columns(table, lineage),
        **({} if lineage is None else {"dagster/column_lineage": lineage}),
        "key": ", ".join(table.key),
        **{name: dg.MetadataValue.url(url) for name, url in DOCUMENTS[table.name].items()},
    }


def describe_columns(table: Table, lineage: dg.TableColumnLineage | None) -> dg.TableSchema:
    """Return the table's columns for Dagster: type, meaning, and as tags the DICOM tag and the source column.

    Dagster's open-source UI does not draw column lineage, so the tags show it too.
    """
    sources = {} if lineage is None else lineage.deps_by_column

    def tags(column: Column) -> dict[str, str]:
        source = ", ".join(f"{of.asset_key.to_user_string()}.{of.column_name}" for of in sources.get(column.name, ()))
        return ({"dicom_tag": column.tag} if column.tag else {}) | ({"from": source} if source else {})

    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.type_name,
                description=column.description,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
                tags=tags(column),
            )
            for column in table.columns
        ]
    )
