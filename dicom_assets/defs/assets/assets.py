"""The assets, in the order in which a change reaches them. Each runs its checks in its own step, once it is stored."""

from collections.abc import Collection, Iterator
from time import monotonic
from typing import Any

import dagster as dg

from dicom_assets.core.columns.schema import CHANGE_FEED, FILE_INDEX, INSTANCE, SERIES, STUDY
from dicom_assets.core.tables.change_feed import HOUR
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.defs.assets.metadata import DESCRIPTIONS, describe_table
from dicom_assets.defs.assets.resources import DicomServiceResource
from dicom_assets.defs.checks.checks import (
    check_agreement,
    check_feed,
    check_instances,
    check_metadata,
    check_values,
)
from dicom_assets.defs.checks.failure import retrying
from dicom_assets.defs.checks.same_lake import require_same_lake
from dicom_assets.defs.checks.same_version import tag_step
from dicom_assets.defs.checks.specs import build_specs
from dicom_assets.defs.pipeline import Pipeline
from dicom_assets.defs.runs.observed import Observed, Reading
from dicom_assets.defs.runs.progress import Progress
from dicom_assets.defs.runs.resume import find_remaining
from dicom_assets.derive.derivation import build_derivation
from dicom_assets.derive.feed_window import FeedWindow

Results = Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]
"""Results that an asset yields: its rows, then, once the rows are stored, the results of its checks."""

OWNERS = ["team:imaging-data"]


def build_assets(pipeline: Pipeline) -> list[dg.AssetsDefinition]:
    """Return the assets `change_feed`, `instance`, `series`, `study` and `file_index`, each with its checks.

    `healthcare_instance` follows them if the pipeline has the table.
    """
    return [
        _build_change_feed(pipeline),
        _build_instances(pipeline, INSTANCE.name),
        _build_aggregate(pipeline, SERIES.name),
        _build_aggregate(pipeline, STUDY.name, after=[SERIES.name]),
        _build_aggregate(pipeline, FILE_INDEX.name),
        *([_build_instances(pipeline, name)] if (name := HEALTHCARE_INSTANCE.name) in pipeline.tables else []),
    ]


def _build_change_feed(pipeline: Pipeline) -> Any:
    naming, settings = pipeline.naming, pipeline.settings
    pool = naming.name(settings.change_feed_pool)  # its own pool lets hours be read while others are merged
    options = _build_options(pipeline, CHANGE_FEED.name, kinds=["azure"]) | {"pool": pool}

    @dg.asset(**options, required_resource_keys={naming.service_resource})
    def change_feed(context: dg.AssetExecutionContext) -> Results:
        service: DicomServiceResource = getattr(context.resources, naming.service_resource)
        with retrying(context.retry_number):
            require_same_lake(context.instance, pipeline.lake, [CHANGE_FEED], naming)
            remaining = find_remaining(context, service.now())
            with service.open_client() as client:
                reading = Reading(
                    client,
                    remaining,
                    service.now,
                    instance=pipeline.tables[INSTANCE.name] if _runs_instance(context, pipeline) else None,
                    batch_bytes=pipeline.memory.batch_bytes,
                    progress=Progress(remaining.window, context.log.info, monotonic),
                )
                yield dg.MaterializeResult(value=reading)
                yield check_feed(client, pipeline.lake, remaining.window, reading.entries)
                yield check_metadata(*reading.unreadable, window=str(remaining.window))

    return change_feed


def _build_instances(pipeline: Pipeline, name: str) -> Any:
    """Return the asset of a table of live instances, derived from `change_feed`."""

    @dg.asset(**_build_options(pipeline, name, CHANGE_FEED.name))
    def instances(change_feed: FeedWindow) -> Results:
        derived = _derive(pipeline, name, change_feed)
        yield dg.MaterializeResult(value=derived)
        yield check_instances(pipeline.lake, change_feed.window, derived, pipeline.tables[name])
        if name == INSTANCE.name:
            yield check_values(derived, change_feed.window)

    return instances


def _build_aggregate(pipeline: Pipeline, name: str, after: Collection[str] = ()) -> Any:
    """Return the asset of a table that is derived from `instance`.

    Args:
        pipeline: The pipeline of the table.
        name: Name of the table.
        after: Tables that a run writes first.
    """
    options = _build_options(pipeline, name, INSTANCE.name)

    @dg.asset(**options, deps=[pipeline.naming.key(table) for table in after])
    def aggregate(instance: FeedWindow) -> Results:
        derived = _derive(pipeline, name, instance)
        yield dg.MaterializeResult(value=derived)
        yield check_agreement(pipeline.lake, instance.window, derived, pipeline.tables[name])

    return aggregate


def _build_options(pipeline: Pipeline, name: str, *inputs: str, kinds: Collection[str] = ()) -> dict[str, Any]:
    """Return the arguments of `dagster.asset` for the asset of a table.

    Args:
        pipeline: The pipeline of the table.
        name: Name of the table.
        inputs: Tables that the asset is derived from.
        kinds: Kinds besides the common ones.
    """
    naming, table = pipeline.naming, pipeline.tables[name]
    key = naming.key(name)
    return {
        "key": key,
        "description": DESCRIPTIONS[name],
        "ins": {source: dg.AssetIn(naming.key(source)) for source in inputs},
        "group_name": naming.group,
        "io_manager_key": naming.io_manager,
        "kinds": {"dicom", "deltalake", *kinds},
        "owners": pipeline.owners,
        "partitions_def": pipeline.partitions,
        "backfill_policy": dg.BackfillPolicy.single_run(),
        "freshness_policy": dg.FreshnessPolicy.time_window(fail_window=HOUR + pipeline.hours.lateness),
        "pool": naming.pool,
        "check_specs": build_specs(name, key),
        "metadata": describe_table(table, pipeline.lake.uri(table), naming),
        "op_tags": tag_step(table),
    }


def _derive(pipeline: Pipeline, name: str, changes: FeedWindow) -> Observed:
    table, file_system = pipeline.tables[name], pipeline.settings.file_url_prefix
    return Observed(changes, lambda part: build_derivation(table, part, file_system))


def _runs_instance(context: dg.AssetExecutionContext, pipeline: Pipeline) -> bool:
    """Return whether the run materialises `instance`, too: reading then decodes the attributes at once."""
    selection = context.run.asset_selection  # none or empty: all assets
    return not selection or pipeline.naming.key(INSTANCE) in selection
