"""Checks of Dagster: its home, its history, one writer at a time, and daemons that are alive."""

from pathlib import Path

from dicom_assets.config.project import DAGSTER_YAML
from dicom_assets.core.finding import Finding
from dicom_assets.doctor.findings import green, red, yellow
from dicom_assets.doctor.surroundings import Surroundings


def check_home(surroundings: Surroundings) -> Finding:
    """Check that DAGSTER_HOME is set and has a dagster.yaml."""
    home = surroundings.dagster_home
    if surroundings.given_instance is not None:
        return green("Dagster runs this check itself, with the instance that it has")
    if not home:
        return red(
            "DAGSTER_HOME is not set",
            why="Without it Dagster keeps its history, schedules and pools in a temporary folder, or nowhere",
            remedy=f"Set DAGSTER_HOME to a folder with a copy of {DAGSTER_YAML}, by its absolute path",
        )
    folder = Path(home)
    if not folder.is_absolute() or not folder.is_dir():
        return red(
            f"DAGSTER_HOME={home} is {'no folder' if folder.is_absolute() else 'no absolute path'}",
            why="Dagster refuses to start with it",
            remedy="Set the absolute path of a folder that exists",
        )
    if not (folder / "dagster.yaml").is_file():
        return yellow(
            f"{folder} has no dagster.yaml",
            why="Dagster's own defaults hold then: any number of writers at a time, and telemetry",
            remedy=f"Copy {DAGSTER_YAML} there",
        )
    return green(f"DAGSTER_HOME={folder} has a dagster.yaml")


def check_storage(surroundings: Surroundings) -> Finding:
    """Check that the history of runs can be read."""
    instance = surroundings.instance
    runs = instance.get_runs_count()
    kind = type(instance.run_storage).__name__
    return green(f"Dagster's history can be read ({kind}, {runs:,} runs)", facts={"runs": runs, "storage": kind})


def check_pool(surroundings: Surroundings) -> Finding:
    """Check that one step at a time writes the tables."""
    from dicom_assets.defs.naming import Naming

    instance = surroundings.instance
    pool = Naming(surroundings.key_prefix).pool
    config = instance.get_concurrency_config().pool_config
    own = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits() if not pool.from_default}
    limit = own.get(pool, config.default_pool_limit)
    by = config.pool_granularity.value if config.pool_granularity else "op"
    facts = {"limit": limit, "granularity": by}
    if limit == 1 and by == "op":
        return green(f"The pool {pool} lets one step write at a time", facts=facts)
    return yellow(
        f"The pool {pool} lets {'any number' if limit is None else limit} {'steps' if by == 'op' else 'runs'} write "
        "at a time",
        why="The tables come out right all the same, but commits are lost to one another and tried again",
        remedy=f"Set concurrency.pools in dagster.yaml as {DAGSTER_YAML} has it (granularity: op, default_limit: 1), "
        f"and under Deployment → Concurrency no other limit of {pool}",
        facts=facts,
    )


def check_lake(surroundings: Surroundings) -> Finding:
    """Check that Dagster's history belongs to the tables of this lake."""
    from dicom_assets.defs.checks.same_lake import require_same_lake
    from dicom_assets.defs.naming import Naming

    naming = Naming(surroundings.key_prefix)
    require_same_lake(surroundings.instance, surroundings.lake, surroundings.settings.tables, naming)
    return green("The tables are those that Dagster's history is of, and not older")


def check_daemons(surroundings: Surroundings) -> Finding:
    """Check that all daemons that Dagster needs are alive."""
    statuses = surroundings.instance.get_daemon_statuses()
    needed = {name: status for name, status in statuses.items() if status.required}
    dead = sorted(name for name, status in needed.items() if not status.healthy)
    facts = {name.lower(): bool(status.healthy) for name, status in sorted(needed.items())}
    if not dead:
        return green(f"All {len(needed)} daemons are alive", facts=facts)
    never = all(status.last_heartbeat is None for status in needed.values())
    return red(
        "The daemon never ran" if never else f"These daemons gave no sign of life: {', '.join(dead)}",
        why="Schedules, sensors, backfills and queued runs wait for it",
        remedy="Start it (`dagster-daemon run`, or `dagster dev`) with the same DAGSTER_HOME, and read its log",
        facts=facts,
    )
