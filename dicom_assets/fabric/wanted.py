"""Shortcuts of a Fabric lakehouse, created from the settings."""

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dicom_assets.config import rules
from dicom_assets.config.connections import build_auth
from dicom_assets.config.settings import Settings
from dicom_assets.core.errors import SettingsError
from dicom_assets.fabric.shortcuts import Outcome, Shortcut, Target

if TYPE_CHECKING:
    from dicom_assets.fabric.client import Lakehouse


def has_lakehouse(settings: Settings) -> bool:
    """Return whether the settings name a lakehouse for the shortcuts, and a connection."""
    return None not in {settings.fabric_workspace_id, settings.fabric_lakehouse_id, settings.fabric_connection_id}


def has_tables(settings: Settings) -> bool:
    """Return whether this service creates the tables' shortcuts; of services that share tables, only the first does."""
    return not settings.shares_tables or settings.service_name == settings.sharing[0]


def has_files(settings: Settings) -> bool:
    """Return whether the service keeps its DICOM files in Azure."""
    return settings.file_system_url is not None and "://" in settings.file_system_url


def update_shortcuts(
    settings: Settings,
    *,
    replace: bool = False,
    dry_run: bool = False,
    with_tables: bool = True,
    with_files: bool = True,
) -> list[Outcome]:
    """Create or change the lakehouse's shortcuts to match the settings; a failure does not stop the others.

    Args:
        settings: settings that name the lakehouse, the tables and the files.
        replace: whether to change shortcuts that point elsewhere.
        dry_run: whether to report the changes without making them.
        with_tables: whether to include the shortcuts to the tables.
        with_files: whether to include the shortcut to the DICOM files, if their location is known.

    Returns:
        The outcome of each shortcut.

    Raises:
        SettingsError: a setting is missing, or the tables are not in Azure.
        FabricError: the shortcuts of the lakehouse cannot be listed.
        ServiceError: the identity gets no token.
    """
    from dicom_assets.fabric.client import write_shortcuts  # imported late: Dagster always loads this module

    wanted = build_table_shortcuts(settings) if with_tables else []
    if with_files and (files := build_file_shortcut(settings)):
        wanted.append(files)
    with _open_lakehouse(settings) as lakehouse:
        return write_shortcuts(lakehouse, wanted, replace=replace, dry_run=dry_run)


def build_table_shortcuts(settings: Settings) -> list[Shortcut]:
    """Return the shortcuts to the tables.

    Raises:
        SettingsError: Fabric cannot reach the tables, or the settings name no connection, or a table's path cannot be
            the target of a shortcut.
    """
    if not settings.storage_url.startswith("https://"):
        raise SettingsError(
            f"The tables lie in {settings.storage_url}, where Fabric cannot read them. Set DICOM_STORAGE_URL to the "
            "account they lie in, such as https://ACCOUNT.dfs.core.windows.net."
        )
    connection = _require("DICOM_FABRIC_CONNECTION_ID", settings.fabric_connection_id)
    folder = "Tables" if settings.fabric_schema is None else f"Tables/{settings.fabric_schema}"
    shortcuts = []
    for table, name in rules.parse_fabric_tables(settings.fabric_tables).items():
        try:
            path = rules.check_shortcut_target(settings.table_paths[table])
        except ValueError as error:
            raise SettingsError(f"DICOM_{table.upper()}_TABLE_PATH: {error}") from error
        target = Target(settings.storage_url, f"/{settings.container_name}/{path}", connection)
        shortcuts.append(Shortcut(folder, name if settings.shares_tables else _build_name(settings, name), target))
    return shortcuts


def build_file_shortcut(settings: Settings) -> Shortcut | None:
    """Return the shortcut to the DICOM files; None if the service keeps no files in Azure.

    Raises:
        SettingsError: the settings name no connection for the storage account of the files.
    """
    if not has_files(settings):
        return None
    file_system = urlsplit(str(settings.file_system_url))
    location = f"https://{file_system.hostname}"
    connection = settings.fabric_files_connection_id
    if connection is None and location == settings.storage_url:
        connection = settings.fabric_connection_id
    if connection is None:
        raise SettingsError(
            f"The DICOM files lie in {location}, another account than the tables, and DICOM_FABRIC_FILES_CONNECTION_ID "
            "is not set. Set it to the id of a Fabric connection for that account, or leave the files out (--no-files)."
        )
    target = Target(location, f"/{file_system.username}/{settings.fabric_files_folder}", connection)
    return Shortcut("Files", _build_name(settings, settings.fabric_files_name), target)


def _build_name(settings: Settings, name: str) -> str:
    """Return the shortcut's name; if there are several services, the name of the service stands before it."""
    return f"{settings.service_name}_{name}" if settings.service_name else name


def _open_lakehouse(settings: Settings) -> "Lakehouse":
    from dicom_assets.fabric.client import Lakehouse

    return Lakehouse(
        _require("DICOM_FABRIC_WORKSPACE_ID", settings.fabric_workspace_id),
        _require("DICOM_FABRIC_LAKEHOUSE_ID", settings.fabric_lakehouse_id),
        base_url=settings.fabric_url,
        auth=build_auth(settings.of_lake, settings.fabric_token_scope),
    )


def _require(variable: str, value: str | None) -> str:
    if value is None:
        option = variable.removeprefix("DICOM_FABRIC_").removesuffix("_ID").lower()
        raise SettingsError(
            f"{variable} is not set, so it is not known where shortcuts are to lie, or how Fabric reaches the tables. "
            f"Set it to the GUID, or give it as --{option}."
        )
    return value
