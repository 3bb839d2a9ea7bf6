"""The job that creates or corrects a Fabric lakehouse's shortcuts to the tables.

Run it after a change of table names, paths or storage.
"""

from typing import Protocol

import dagster as dg
from pydantic import Field

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

    replace: bool = Field(
        False, description="True to change shortcuts that point elsewhere; the data behind them stays."
    )
    dry_run: bool = Field(False, description="True to report the steps without doing them.")


def build_fabric_job(bring: BringShortcuts, naming: Naming = PLAIN) -> dg.JobDefinition:
    """Return the job `fabric_shortcuts`."""

    @dg.op(name=naming.name("bring_shortcuts"), tags={"dagster/compute_kind": "fabric"})
    def bring_op(context: dg.OpExecutionContext, config: ShortcutsConfig) -> None:
        """Compare the lakehouse's shortcuts with the settings, and create or correct shortcuts that differ."""
        outcomes = bring(replace=config.replace, dry_run=config.dry_run)
        for outcome in outcomes:
            context.log.info("%s: %s", outcome.shortcut.path, outcome.describe(dry_run=config.dry_run))
        problems = [outcome.problem for outcome in outcomes if outcome.problem]
        if problems:
            fail(FabricError("\n".join(dict.fromkeys(problems))))

    @dg.job(
        name=naming.name("fabric_shortcuts"),
        executor_def=dg.in_process_executor,
        description="Creates or corrects the shortcuts to the tables in a Fabric lakehouse.",
    )
    def fabric_shortcuts() -> None:
        bring_op()

    return fabric_shortcuts
