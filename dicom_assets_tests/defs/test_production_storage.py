"""Dagster's storage as in production, without what `quick_sqlite.py` keeps for all other tests."""

from dicom_assets_tests.defs.ticks import open_automation
from dicom_assets_tests.law.world import CHAIN, partition_keys
from dicom_assets_tests.quick_sqlite import production_storage

OFF, FULL = 0, 2


def read_pragmas(instance) -> list[tuple[int, str]]:
    """How the storages of events and runs synchronise with the disk, and the kind of their journals."""
    pragmas = []
    for connect in (instance.event_log_storage.index_connection, instance.run_storage.connect):
        with connect() as connection:
            ask = connection.exec_driver_sql
            pragmas.append((ask("PRAGMA synchronous").scalar(), ask("PRAGMA journal_mode").scalar()))
    return pragmas


def test_hours_run_on_the_storage_of_production(tmp_path):
    with production_storage(), open_automation(tmp_path, in_memory=False) as automation:
        for number, hour in enumerate((0.5, 1.5), start=1):
            automation.store(hour, number)
        automation.set_clock(3)
        automation.catch_up()
        automation.check_law()
        assert automation.times_materialized() == dict.fromkeys(partition_keys(2), 1)
        assert read_pragmas(automation.instance) == [(FULL, "wal"), (FULL, "wal")]
        assert automation.instance.get_runs_count() > 0
        assert {key.to_user_string() for key in automation.instance.all_asset_keys()} >= set(CHAIN)


def test_all_other_tests_run_on_a_storage_that_differs_in_what_a_power_cut_would_lose(tmp_path):
    with open_automation(tmp_path, in_memory=False) as automation:
        assert read_pragmas(automation.instance) == [(OFF, "wal"), (OFF, "wal")]
