"""The job that creates or corrects a Fabric lakehouse's shortcuts to the tables.

Run it after a change of table names, paths or storage.
"""

from typing import Protocol

import dagster as dg

from dicom_assets.core.errors import FabricError
from dicom_assets.defs.checks.failure import fail
from dicom_assets.defs.naming import PLAIN, Naming
from dicom_assets.fabric.shortcuts import Outcome


class BringShortcuts(Protocol):
    """A function that creates or corrects the configured shortcuts in a lakehouse."""

    def __call__(self, *, replace: bool, dry_run: bool) -> list[Outcome]:
        """Return one outcome for each shortcut."""
        ...


class ShortcutsConfig(dg.Config):
    """Options of the job."""

    replace: bool = False
    """True to change shortcuts that point elsewhere; the data behind them stays."""
    dry_run: bool = False
    """True to report the steps without doing them."""


def build_fabric_jobs(bring: BringShortcuts, naming: Naming = PLAIN) -> list[dg.JobDefinition]:
    """Return the job `fabric_shortcuts`, in a list."""

    @dg.op(name=naming.name("bring_shortcuts"), tags={"dagster/compute_kind": "fabric"})
    def bring_op(context: dg.OpExecutionContext, config: ShortcutsConfig) -> None:
        """Compare the lakehouse's shortcuts with the configured ones, and write the ones that differ."""
        outcomes = bring(replace=config.replace, dry_run=config.dry_run)
        for outcome in outcomes:
            context.log.info("%s: %s", outcome.shortcut.path, outcome.describe(dry_run=config.dry_run))
        problems = [outcome.problem for outcome in outcomes if outcome.problem]
        if problems:
            fail(FabricError("\n".join(dict.fromkeys(problems))))

    @dg.job(
        name=naming.name("fabric_shortcuts"),
        description="Shortcuts to the tables in a Fabric lakehouse, created or corrected.",
    )
    def job() -> None:
        bring_op()

    return [job]
