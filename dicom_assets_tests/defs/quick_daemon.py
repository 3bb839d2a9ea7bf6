"""Dagster's daemon as it is, but that it looks for backfills every second or two, instead of every 30."""

from dicom_assets_tests.dagster_private import import_daemon

if __name__ == "__main__":
    controller, _, cli = import_daemon()
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 2
    cli.main()
