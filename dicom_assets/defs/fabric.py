"""The job that makes a Fabric lakehouse have shortcuts to the tables; run it after a change of names or places."""

from typing import Protocol

import dagster as dg

from dicom_assets.adapters.shortcuts import Outcome
from dicom_assets.core.errors import FabricError
from dicom_assets.defs.failure import fail
from dicom_assets.defs.naming import PLAIN, Naming


class BringShortcuts(Protocol):
    """Makes a lakehouse have the shortcuts that are wanted."""

    def __call__(self, *, replace: bool, dry_run: bool) -> list[Outcome]:
        """How that went, shortcut by shortcut."""
        ...


class ShortcutsConfig(dg.Config):
    """What the job may do."""

    replace: bool = False
    """Whether shortcuts that point elsewhere are changed; the data they point to stays."""
    dry_run: bool = False
    """Whether to tell only what would be done."""


def build_fabric_jobs(bring: BringShortcuts, naming: Naming = PLAIN) -> list[dg.JobDefinition]:
    """The job `fabric_shortcuts`."""

    @dg.op(name=naming.name("bring_shortcuts"), tags={"dagster/compute_kind": "fabric"})
    def bring_op(context: dg.OpExecutionContext, config: ShortcutsConfig) -> None:
        """Compares the lakehouse's shortcuts with those wanted, and writes the ones that differ."""
        outcomes = bring(replace=config.replace, dry_run=config.dry_run)
        for outcome in outcomes:
            context.log.info("%s: %s", outcome.step.shortcut.path, outcome.done(dry_run=config.dry_run))
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
