"""Dagster's daemon, killed together with its code server once a sensor's tick has asked for the first of its runs."""

import os
import signal

from dicom_assets_tests.dagster_private import import_daemon

_, sensor, cli = import_daemon()
submit = sensor._submit_run_request


def submit_and_die(*args, **named) -> None:
    submit(*args, **named)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sensor._submit_run_request = submit_and_die
    cli.main()
