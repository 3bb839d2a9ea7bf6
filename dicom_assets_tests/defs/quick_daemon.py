"""Dagster's daemon as it is, but that it looks for backfills every second or two, instead of every 30."""

from dagster._daemon import controller
from dagster._daemon.cli import main

if __name__ == "__main__":
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 2
    main()
