"""Which automation conditions of a downstream asset fire, as the tables' materializations come."""

from datetime import timedelta

import dagster as dg
import pyarrow as pa
import pytest

from dicom_assets.core.columns.schema import STUDY
from dicom_assets.core.tables.change_feed import HOUR
from dicom_assets.defs.assets.io_manager import DeltaIOManager
from dicom_assets.defs.automation.run_requests import Reason
from dicom_assets.defs.partitions import PARTITION_FORMAT, build_partitions
from dicom_assets_tests.core.tables.rows import START, build_rows
from dicom_assets_tests.lakes.building import build_lake, study

# dagster calls a run over several partitions a beta feature
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

AC = dg.AutomationCondition
HOURS = build_partitions(START, None)
DAYS = dg.DailyPartitionsDefinition(START.strftime("%Y-%m-%d"), end_offset=1)
EAGER = AC.eager()
ON_CHANGED_ROWS = AC.eager().without(AC.in_latest_time_window()).replace("newly_updated", AC.data_version_changed())

ON_FINAL_READINGS = (
    AC.eager()
    .without(AC.in_latest_time_window())
    .replace(
        "newly_updated",
        AC.newly_updated() & AC.any_new_update_has_run_tags(tag_values={"dicom_assets/reason": "hours are due"}),
    )
)


def key_of(hour: int) -> str:
    return (START + hour * HOUR).strftime(PARTITION_FORMAT)


class Host:
    """A host's definitions, ticked by hand: a table, and an asset that depends on it."""

    def __init__(self, folder, condition: dg.AutomationCondition, partitions: dg.PartitionsDefinition) -> None:
        self.rows: list[str] = []
        self.instance = dg.DagsterInstance.ephemeral()
        self.manager = DeltaIOManager(build_lake(folder), {dg.AssetKey("study"): STUDY})
        self.now = START + timedelta(hours=4, minutes=30)
        self.cursor = None

        @dg.asset(
            name="study",
            io_manager_key="delta",
            partitions_def=HOURS,
            backfill_policy=dg.BackfillPolicy.single_run(),
        )
        def stored() -> dg.MaterializeResult:
            return dg.MaterializeResult(value=build_rows([study(uid) for uid in self.rows], STUDY))

        @dg.asset(ins={"study": dg.AssetIn("study")}, partitions_def=partitions, automation_condition=condition)
        def report(study: pa.Table) -> None: ...

        self.stored = stored
        self.defs = dg.Definitions([stored, report], resources={"delta": self.manager})

    def store(self, *hours: int, tags: dict | None = None) -> None:
        """Materialise the table for an hour, or for the hours from the first to the last."""
        how: dict = {"partition_key": key_of(hours[0]), "tags": tags}
        if len(hours) > 1:
            first, last = key_of(hours[0]), key_of(hours[-1])
            how = {"tags": {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}}
        assert dg.materialize([self.stored], resources={"delta": self.manager}, instance=self.instance, **how).success

    def tick(self) -> set[str]:
        """Return the partitions of `report` that are requested."""
        result = dg.evaluate_automation_conditions(
            self.defs, self.instance, evaluation_time=self.now, cursor=self.cursor
        )
        self.cursor, self.now = result.cursor, self.now + timedelta(seconds=30)
        return result.get_requested_partitions(dg.AssetKey("report"))


@pytest.mark.parametrize(("partitions", "requested"), [(HOURS, key_of(1)), (DAYS, "2026-03-01")], ids=["hours", "day"])
def test_condition_on_data_versions_fires_when_rows_changed_and_not_at_each_look(tmp_path, partitions, requested):
    host = Host(tmp_path, ON_CHANGED_ROWS, partitions)
    for hour in range(24 if partitions is DAYS else 3):
        host.store(hour)
    if partitions is DAYS:
        host.now += timedelta(days=1)
    host.tick()
    host.store(1)
    assert host.tick() == set(), "the hour was read again, and nothing was committed"
    host.rows.append("1")
    host.store(1)
    assert host.tick() == {requested}
    host.store(1)
    assert host.tick() == set()


def test_eager_fires_at_each_look_and_only_for_the_latest_hour(tmp_path):
    host = Host(tmp_path, EAGER, build_partitions(START, START + 3 * HOUR))
    for hour in range(3):
        host.store(hour)
    host.tick()
    host.store(2)
    assert host.tick() == {key_of(2)}, "nothing was committed"
    host.rows.append("1")
    host.store(1)
    assert host.tick() == set(), "an earlier hour has a new row"


def test_hours_of_a_range_that_committed_count_as_changed(tmp_path):
    host = Host(tmp_path, ON_CHANGED_ROWS, HOURS)
    host.store(0, 1, 2)
    host.tick()
    host.store(0, 1, 2)
    assert host.tick() == set()
    host.rows.append("1")
    host.store(0, 1, 2)
    assert host.tick() == {key_of(hour) for hour in range(3)}


def test_condition_on_final_readings_fires_once_the_hour_was_due(tmp_path):
    host = Host(tmp_path, ON_FINAL_READINGS, HOURS)
    host.store(0)
    host.tick()
    host.rows.append("1")
    host.store(1, tags={"dicom_assets/reason": "new entries"})
    assert host.tick() == set()
    host.store(1, tags={"dicom_assets/reason": Reason.DUE.value})
    assert host.tick() == {key_of(1)}
