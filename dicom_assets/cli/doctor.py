"""`dicom-assets doctor`: check everything that runs need, and print the findings."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_assets.cli.options import KeyPrefix, ServiceName, parse_key_prefix
from dicom_assets.core.errors import SettingsError

if TYPE_CHECKING:
    from dicom_assets.core.finding import Finding


def doctor(
    *,
    checks: Annotated[
        list[str] | None, typer.Argument(help="Checks to run, with all that they need: token, service, lake.write, …")
    ] = None,
    service: ServiceName = None,
    key_prefix: KeyPrefix = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")] = False,
) -> None:
    """Check what runs need: settings, tokens, the service, the lake, the files, Dagster. Exit code 1 if one is red."""
    from rich.console import Console

    from dicom_assets.config.services import choose_services, load_service
    from dicom_assets.doctor import report
    from dicom_assets.doctor.examination import CHECKS, choose_checks, examine
    from dicom_assets.doctor.surroundings import Surroundings

    chosen = choose_checks(checks or [])
    if not chosen:
        names = sorted({check.name.partition(".")[0] for check in CHECKS})
        raise typer.BadParameter(f"there is no such check; checks are {', '.join(names)}", param_hint="CHECKS")
    try:
        services = [each.service_name for each in choose_services(service)]
    except SettingsError:
        services = [service]  # the first check reports the error

    def examine_all() -> "Iterator[Finding]":
        for name in services:
            surroundings = Surroundings(
                partial(load_service, name),
                lambda: datetime.now(UTC),
                key_prefix=(*parse_key_prefix(key_prefix), *([name] if name else [])),
                dagster_home=os.environ.get("DAGSTER_HOME"),
            )
            for finding in examine(surroundings, chosen):
                yield replace(finding, check=f"{name}/{finding.check}") if name else finding

    with _silence("azure", "deltalake", "dicom_assets"):  # the checks report their errors
        findings = list(examine_all()) if as_json else report.print_findings(examine_all(), Console())
    if as_json:
        typer.echo(report.to_json(findings))
    sys.exit(0 if report.is_healthy(findings) else 1)


@contextmanager
def _silence(*names: str) -> Iterator[None]:
    """Silence loggers until the block ends."""
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
