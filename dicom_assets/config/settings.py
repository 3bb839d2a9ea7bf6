"""The environment as validated settings: each variable is declared once, with its default and its meaning.

Only this module, `services.py`, `definitions.py` and `cli/` read the environment. Pydantic validates field by field;
the rules and their messages are the project's (`rules.py`), since a message must say what is wrong, why, and what to
do.
"""

import difflib
import logging
import os
import re
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from dicom_assets.config import rules
from dicom_assets.config.project import name_command
from dicom_assets.core.columns.schema import TABLES, Column, Grain, Table, extend_tables
from dicom_assets.core.errors import SettingsError
from dicom_assets.core.memory import DEFAULT_MEGABYTES, LEAST_MEGABYTES
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.identity.credentials import DICOM_SCOPE, Authentication, Host

logger = logging.getLogger(__name__)

PREFIX = "DICOM_"
LAKE_POOL = "dicom_lake"
"""Dagster pool of every step that writes the tables; a service's name is put before it."""
FIRST_HOUR_WITHOUT_SERVICE = datetime(2026, 1, 1, tzinfo=UTC)
"""First hour partition where neither a service nor a start time is set, so that the definitions load without them."""


def _check_number(low: int, high: int, why: str) -> BeforeValidator:
    return BeforeValidator(rules.require_whole_number(low, high, why))


def _check(rule: Callable[[str], object]) -> BeforeValidator:
    """Return a validator that applies a rule to a value that is set."""
    return BeforeValidator(lambda value: value if value is None else rule(value))


def _check_secret(rule: Callable[[str], str]) -> BeforeValidator:
    return _check(lambda value: rule(value.get_secret_value() if isinstance(value, SecretStr) else value))


_Hour = Annotated[datetime | None, _check(rules.parse_hour)]
_Id = Annotated[str | None, _check(rules.check_id)]
_TablePath = Annotated[str, _check(rules.check_table_path)]


def _name_variable(field: str) -> str:
    return field.upper() if field.startswith("azure_") else PREFIX + field.upper()


class Settings(BaseModel):
    """All settings, validated. Fields are in the documentation's order; a rule sees the fields above its own.

    A field without a description does not come from a variable: `services.py` sets it.
    """

    model_config = ConfigDict(
        frozen=True,
        alias_generator=_name_variable,
        validate_by_name=True,
        validate_by_alias=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    service_name: str | None = None
    """Name of the service, where there are several; None where there is one."""
    environment: "Settings | None" = None
    """Common settings of several services, with the identity that opens their lake; None where there is one service."""
    sharing: tuple[str, ...] = ()
    """Names of all services that share these tables; empty where each service has its own tables."""
    _host: Host | None = PrivateAttr(None)
    service_url: Annotated[str | None, _check(rules.check_service_url)] = Field(
        default=None,
        description="Base URL of the DICOM service, without `/v2`. If it is not set, the definitions load, and "
        "materialising fails with a hint to the demo.",
    )
    services: str | None = Field(
        default=None,
        description="TOML or YAML file that lists several DICOM services, instead of `DICOM_SERVICE_URL`; see "
        "docs/services.md.",
    )
    authentication: Annotated[
        Authentication, _check(rules.require_choice(tuple(Authentication), "a known way to sign in"))
    ] = Field(
        default=Authentication.DEFAULT,
        description="Identity that signs in to the service: `default` (DefaultAzureCredential), `managed_identity`, "
        "`workload_identity`, `client_secret`, `azure_cli` or `none`.",
    )
    token_scope: Annotated[str, _check(rules.check_token_scope)] = Field(
        default=DICOM_SCOPE, description="Scope of the tokens: the service's audience and `/.default`."
    )
    api_version: Annotated[int, _check(rules.parse_api_version)] = Field(
        default=2, description="Version of the service's API, 2 or later."
    )
    batch_size: Annotated[int, _check_number(1, 200, "the service gives at most 200 entries per page")] = Field(
        default=200,
        description="Entries per page of the change feed, 1 to 200. Where the service fails to send large pages, the "
        "client asks for smaller ones by itself; a lower number saves the failed requests.",
    )
    max_concurrent_requests: Annotated[int, _check_number(1, 64, "more at once only make the service answer 429")] = (
        Field(default=8, description="Pages of one window that are requested at the same time, 1 to 64.")
    )
    max_memory_mb: Annotated[
        int,
        _check_number(
            LEAST_MEGABYTES, 1_000_000, "the process alone takes most of 512, and some must be left for work"
        ),
    ] = Field(
        default=DEFAULT_MEGABYTES,
        description="Memory limit of a run or a query in megabytes, at least 768: hours and ranges that need more are "
        "stored in parts. An answer of the service may have an eighth of the megabytes above 512.",
    )
    start_time: _Hour = Field(
        default=None,
        description="First hour to read: ISO 8601 with its zone, taken down to its hour in UTC. Required with "
        "`DICOM_SERVICE_URL`.",
    )
    end_time: _Hour = Field(
        default=None,
        description="End of the last hour to read, exclusive: ISO 8601 with its zone, taken down to its hour in UTC. "
        "By default the hours go on.",
    )
    window_delay_minutes: Annotated[
        int, _check_number(0, 10_080, "an hour waits that long after its end, at most a week")
    ] = Field(
        default=15, description="Minutes between the end of an hour and its reading: changes may be committed late."
    )
    sensor_interval_seconds: Annotated[int, _check_number(0, 86_400, "0 is off, a day the longest wait")] = Field(
        default=60,
        description="Least seconds between two searches for new and for late entries; the open hour is read that "
        "often. 0 turns both off: each hour is then read once it is due.",
    )
    look_back_hours: Annotated[int, _check_number(1, 720, "each of these hours is asked about six times an hour")] = (
        Field(default=24, description="Hours for which a read hour is watched for late entries.")
    )
    catch_up_hours_per_run: Annotated[int, _check_number(1, 8_760, "a run of more than a year is hard to watch")] = (
        Field(default=168, description="Most hours that one run catches up on, where hours were missed.")
    )
    catch_up_runs: Annotated[int, _check_number(0, 100, "0 is off; runs beyond the pool's limit only wait")] = Field(
        default=4,
        description="Most runs for due and missed hours that wait or run at the same time. 0 turns them off: hours are "
        "then materialised by hand.",
    )
    change_feed_pool: Annotated[str, _check(rules.check_pool_name)] = Field(
        default=LAKE_POOL,
        description="Dagster pool of the steps that read the service. A separate pool, such as `dicom_service`, lets "
        "several runs read at a time while one merges; see docs/deploy.md.",
    )
    storage_url: Annotated[str, _check(rules.check_storage_url)] = Field(
        default="./data", description="Location of the tables: a folder, or `https://ACCOUNT.dfs.core.windows.net`."
    )
    container_name: Annotated[str, _check(rules.check_container_name)] = Field(
        default="dicom",
        description="Container (file system) of the tables; for a local lake, the folder inside `DICOM_STORAGE_URL`.",
    )
    instance_table_path: _TablePath = Field(
        default="instance", description="Path of the table `instance` in the container."
    )
    series_table_path: _TablePath = Field(default="series", description="Path of the table `series` in the container.")
    study_table_path: _TablePath = Field(default="study", description="Path of the table `study` in the container.")
    change_feed_table_path: _TablePath = Field(
        default="change_feed", description="Path of the table `change_feed` in the container."
    )
    file_index_table_path: _TablePath = Field(
        default="file_index", description="Path of the table `file_index` in the container."
    )
    healthcare_instance_table_path: _TablePath = Field(
        default=HEALTHCARE_INSTANCE.name,
        description="Path of the table `healthcare_instance` in the container, where `DICOM_TABLE_PROFILE` asks for "
        "it.",
    )
    retention_hours: Annotated[
        int, _check_number(1, 87_600, "old versions of the tables stay that long, at most 10 years")
    ] = Field(default=720, description="Hours for which old versions of the tables can still be read.")
    merge_engine: Annotated[str, _check(rules.require_choice(rules.ENGINES, "a merge engine"))] = Field(
        default="delta-rs",
        description="Engine that merges rows into the tables: `delta-rs`, in the run itself, or `spark`; see "
        "docs/spark.md.",
    )
    spark_remote: Annotated[SecretStr | None, _check_secret(rules.check_spark_remote)] = Field(
        default=None,
        description="Spark Connect server for `DICOM_MERGE_ENGINE=spark`, such as `sc://HOST:15002`. By default the "
        "Spark session of the process, as in a notebook.",
    )
    file_system_url: Annotated[str | None, _check(rules.check_file_system_url)] = Field(
        default=None,
        description="Location of the service's DICOM files, for `fileUrl`: "
        "`https://ACCOUNT.dfs.core.windows.net/FILESYSTEM`, `abfss://FILESYSTEM@ACCOUNT.dfs.core.windows.net` or a "
        "folder.",
    )
    extra_columns: Annotated[tuple[tuple[Column, Grain], ...], PlainValidator(rules.load_extra_columns)] = Field(
        default=(), description="TOML or YAML file that lists columns of your own; see docs/columns.md."
    )
    table_profile: Annotated[str | None, _check(rules.check_profile)] = Field(
        default=None,
        description="`healthcare-data-solutions` adds the table `healthcare_instance`, in the layout that Fabric's "
        "healthcare data solutions read; see docs/healthcare.md.",
    )
    alert_webhook_url: Annotated[SecretStr | None, _check_secret(rules.check_webhook_url)] = Field(
        default=None,
        description="URL that a message is posted to when a run has failed (JSON, over https). By default none is "
        "posted.",
    )
    dagster_url: Annotated[str | None, _check(rules.check_dagster_url)] = Field(
        default=None, description="Base URL of Dagster's UI, for links in those messages."
    )
    fabric_workspace_id: _Id = Field(
        default=None,
        description="Workspace ID of the Fabric lakehouse that gets shortcuts to the tables; see docs/azure.md.",
    )
    fabric_lakehouse_id: _Id = Field(
        default=None, description="Lakehouse ID of the Fabric lakehouse that gets the shortcuts."
    )
    fabric_connection_id: _Id = Field(
        default=None,
        description="ID of the Fabric connection through which the lakehouse reads the account in `DICOM_STORAGE_URL`.",
    )
    fabric_tables: Annotated[str, _check(rules.check_fabric_tables)] = Field(
        default="instance,series,study",
        description="Tables that get a shortcut, separated by commas; `TABLE=NAME` names the shortcut.",
    )
    fabric_schema: Annotated[str | None, _check(rules.check_shortcut_name)] = Field(
        default=None, description="Schema of the tables' shortcuts, such as `dbo`, in a lakehouse that has schemas."
    )
    fabric_files_folder: Annotated[str, _check(rules.check_shortcut_target)] = Field(
        default="AHDS", description="Folder in `DICOM_FILE_SYSTEM_URL` that the shortcut to the DICOM files points to."
    )
    fabric_files_name: Annotated[str, _check(rules.check_shortcut_name)] = Field(
        default="AHDS", description="Name of the shortcut to the DICOM files, under `Files`."
    )
    fabric_files_connection_id: _Id = Field(
        default=None, description="ID of the Fabric connection for DICOM files in another account than the tables."
    )
    fabric_url: Annotated[str, _check(rules.check_fabric_url)] = Field(
        default=rules.FABRIC_URL, description="Base URL of the Fabric REST API; private links have another URL."
    )
    fabric_token_scope: Annotated[str, _check(rules.check_token_scope)] = Field(
        default=rules.FABRIC_SCOPE, description="Scope of the tokens for the Fabric REST API."
    )
    azure_tenant_id: str | None = Field(
        default=None,
        description="Microsoft Entra tenant, for `client_secret` and `workload_identity`.",
    )
    azure_client_id: str | None = Field(
        default=None,
        description="Application or user-assigned managed identity; by default the machine's own identity.",
    )
    azure_client_secret: SecretStr | None = Field(
        default=None, description="Secret of the application, for `client_secret`."
    )
    azure_authority_host: Annotated[str | None, _check(rules.check_authority)] = Field(
        default=None,
        description="Host of Microsoft Entra, in clouds other than the public one: `https://login.microsoftonline.us`.",
    )
    azure_storage_account_key: Annotated[SecretStr | None, _check_secret(rules.check_account_key)] = Field(
        default=None,
        description="Key of the storage account, used instead of the identity. An identity is better.",
    )
    azure_storage_sas_token: Annotated[SecretStr | None, _check_secret(rules.check_sas_token)] = Field(
        default=None,
        description="SAS token with the rights `racwdl`, used instead of the identity. An identity is better.",
    )

    @field_validator("start_time")
    @classmethod
    def _start_with_service(cls, value: datetime | None, info: ValidationInfo) -> datetime | None:
        service_is_set = info.data.get("service_url", "set, but unusable") is not None
        if value is None and service_is_set:
            raise ValueError(
                "is not set, but DICOM_SERVICE_URL is. Set the first hour to read, such as 2026-03-01T00:00Z: the hour "
                "in which the service stored its first instance, or a later one."
            )
        return value

    @field_validator("end_time")
    @classmethod
    def _end_after_start(cls, value: datetime | None, info: ValidationInfo) -> datetime | None:
        if value is None or "start_time" not in info.data:
            return value
        start = info.data["start_time"] or FIRST_HOUR_WITHOUT_SERVICE
        if value <= start:
            raise ValueError(
                f"{value:%Y-%m-%dT%H:%MZ} is not after the first hour, {start:%Y-%m-%dT%H:%MZ}, so there is no hour to "
                "read (both are taken down to their hour). Set a later end, or an earlier DICOM_START_TIME."
            )
        return value

    @field_validator(*(f"{table.name}_table_path" for table in (*TABLES, HEALTHCARE_INSTANCE)))
    @classmethod
    def _folder_of_its_own(cls, value: str, info: ValidationInfo) -> str:
        for field, other in info.data.items():
            if field.endswith("_table_path") and rules.do_overlap(value, other):
                raise ValueError(
                    f"{value!r} overlaps {other!r}, the path in {_name_variable(field)}: one table's maintenance would "
                    "delete the other's files. Give each table a folder of its own."
                )
        return value

    @field_validator("azure_client_secret")
    @classmethod
    def _secret_is_complete(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if info.data.get("authentication") is Authentication.CLIENT_SECRET:
            given = {
                "AZURE_TENANT_ID": info.data.get("azure_tenant_id"),
                "AZURE_CLIENT_ID": info.data.get("azure_client_id"),
                "AZURE_CLIENT_SECRET": value,
            }
            if missing := [name for name, part in given.items() if part is None]:
                raise ValueError(
                    f"DICOM_AUTHENTICATION=client_secret needs {', '.join(missing)}, unset now. Set what is missing, "
                    "or choose another way to sign in."
                )
        return value

    @field_validator("azure_storage_sas_token")
    @classmethod
    def _one_way_into_storage(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        key = info.data.get("azure_storage_account_key")
        if value is not None and key is not None:
            raise ValueError("is set, and AZURE_STORAGE_ACCOUNT_KEY too. Unset one of them, or both for the identity.")
        in_account = "://" in info.data.get("storage_url", "")
        common = info.data.get("environment")  # set with several services: their identity is not the lake's
        without_identity = not common and info.data.get("authentication") is Authentication.NONE
        if value is None and key is None and in_account and without_identity:
            raise ValueError(
                "is not set, nor is AZURE_STORAGE_ACCOUNT_KEY, and DICOM_AUTHENTICATION=none: there is nothing to sign "
                "in to the account in DICOM_STORAGE_URL with. Choose an identity, or set one of the two."
            )
        return value

    @property
    def of_lake(self) -> "Settings":
        """Settings whose identity opens the lake: with several services, the common settings."""
        return self.environment or self

    @property
    def host(self) -> Host:
        """Kind of machine on which the settings are used; settings that were not loaded look at it when asked."""
        return self.of_lake._host or find_host(os.environ)

    @property
    def first_hour(self) -> datetime:
        """Start of the first hour partition, in UTC."""
        return self.start_time or FIRST_HOUR_WITHOUT_SERVICE

    @property
    def tables(self) -> tuple[Table, ...]:
        """Tables of the lake, with the users' columns: five, and one more if a profile is set."""
        return (*extend_tables(self.extra_columns), *([HEALTHCARE_INSTANCE] if self.table_profile else []))

    @property
    def table_paths(self) -> dict[str, str]:
        """Path of each table inside the container, by the table's name."""
        tables = (*TABLES, HEALTHCARE_INSTANCE)
        return {table.name: getattr(self, f"{table.name}_table_path") for table in tables}

    @property
    def lake_url(self) -> str:
        """Folder of all tables: a local path, or `abfss://CONTAINER@ACCOUNT.dfs.core.windows.net`."""
        if self.storage_account is None:
            return str(Path(self.storage_url) / self.container_name)
        if self.storage_endpoint is not None:
            return f"abfss://{self.container_name}@{self.storage_account}.dfs.core.windows.net"
        return f"abfss://{self.container_name}@{urlsplit(self.storage_url).hostname}"

    @property
    def storage_account(self) -> str | None:
        """Name of the storage account; None for a local folder."""
        if "://" not in self.storage_url:
            return None
        url = urlsplit(self.storage_url)
        return url.path.strip("/") or str(url.hostname).split(".")[0]

    @property
    def storage_endpoint(self) -> str | None:
        """URL of a storage emulator on this machine, account included; None for Azure and for a local folder."""
        return self.storage_url if "://" in self.storage_url and urlsplit(self.storage_url).path else None

    @property
    def file_url_prefix(self) -> str | None:
        """Prefix of `/filePath` in `fileUrl`; None where the location of the files is not known."""
        if self.file_system_url is None or "://" in self.file_system_url:
            return self.file_system_url
        return Path(self.file_system_url).absolute().as_posix().rstrip("/")

    @property
    def shares_tables(self) -> bool:
        """True if the tables also hold the rows of other services."""
        return bool(self.sharing)

    def require_service_url(self) -> str:
        """Return the service's base URL.

        Raises:
            SettingsError: No service URL is set.
        """
        if self.service_url is None:
            raise SettingsError(
                "DICOM_SERVICE_URL is not set, so there is no DICOM service to read. Set it to the service's base URL, "
                f"such as {rules.SERVICE_URL_EXAMPLE}, and DICOM_START_TIME to the first hour; or try "
                f"`{name_command('demo')}`, which brings a service of its own."
            )
        return self.service_url


def load_settings(env: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of an environment. A variable that is empty or blank counts as unset.

    Args:
        env: The environment; None means the process's own.

    Raises:
        SettingsError: Some variables cannot be used; the text lists them, with what is wrong and what to do.
    """
    environment = os.environ if env is None else env
    variables = [row.variable for row in describe_settings()]
    _warn_of_misspellings(environment, variables)
    settings, problems = check_settings(read_variables(environment))
    if settings is not None:
        # azure-identity reads the process's own environment, whichever environment the settings come from.
        settings._host = find_host({**os.environ, **environment})
        return settings
    raise _to_error([(str(Settings.model_fields[field].alias), text) for field, text in problems])


def _to_error(problems: Sequence[tuple[str, str]]) -> SettingsError:
    """Return the error that lists the names of invalid settings, each with its problem."""
    count = "1 setting" if len(problems) == 1 else f"{len(problems)} settings"
    return SettingsError("\n".join([f"{count} cannot be used:", *(f"- {name}: {text}" for name, text in problems)]))


_KUBERNETES = ("AZURE_FEDERATED_TOKEN_FILE", "KUBERNETES_SERVICE_HOST")
_MANAGED_IDENTITY = ("IDENTITY_ENDPOINT", "MSI_ENDPOINT", "WEBSITE_INSTANCE_ID", "CONTAINER_APP_NAME")
"""Variables of App Service, Functions, Container Apps, Machine Learning, Service Fabric and Azure Arc."""
_ASSET_TAG_FILE = Path("/sys/class/dmi/id/chassis_asset_tag")
_ASSET_TAG = "7783-7084-3265-9085-8269-3286-77"
"""Asset tag of every virtual machine in Azure. Source: cloud-init's data source for Azure."""


def find_host(environment: Mapping[str, str]) -> Host:
    """Return the kind of this machine, which decides the identity that fits it.

    Args:
        environment: Environment of the process.
    """
    workload, kubernetes = (environment.get(name) for name in _KUBERNETES)
    if not workload and any(environment.get(name) for name in _MANAGED_IDENTITY):
        return Host.AZURE
    if workload or kubernetes:
        return Host.KUBERNETES
    with suppress(OSError, UnicodeDecodeError):
        if _ASSET_TAG_FILE.read_text().strip() == _ASSET_TAG:
            return Host.AZURE
    return Host.TERMINAL if sys.stdin is not None and sys.stdin.isatty() else Host.UNKNOWN


def read_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the values of the variables that are set in an environment, by field name."""
    return {
        name: value
        for name, field in Settings.model_fields.items()
        if field.description and (value := environment.get(str(field.alias), "").strip())
    }


def check_settings(values: Mapping[str, object]) -> tuple[Settings | None, list[tuple[str, str]]]:
    """Validate values, and return the settings, or None and the problems.

    Args:
        values: Values by field name.

    Returns:
        The settings and an empty list; or None, and each invalid field's name with a text that says what is wrong.
    """
    try:
        return Settings.model_validate(values), []
    except ValidationError as error:
        problems = [(str(details["loc"][0]), details["msg"]) for details in error.errors()]
    # Only location and text are taken: Pydantic's error holds the values. The location is the field's name or, where
    # no value was given, the variable's.
    fields = {str(field.alias): name for name, field in Settings.model_fields.items()}
    return None, [(fields.get(name, name), text.removeprefix("Value error, ")) for name, text in problems]


SECRETS = tuple(name for name, field in Settings.model_fields.items() if SecretStr in get_args(field.annotation))
"""Fields that hold a secret."""
LOCATIONS = ("storage_url", "file_system_url", "extra_columns", "services")
"""Fields that can hold the path of a folder or file."""
_VARIABLE = re.compile(r"\b(?:DICOM_)?([A-Z]+(?:_[A-Z]+)*)\b")


def name_fields(text: str, fields: Container[str] = Settings.model_fields) -> str:
    """Return a text with names of fields in place of variables, for settings that come from elsewhere."""
    return _VARIABLE.sub(lambda found: found[1].lower() if found[1].lower() in fields else found[0], text)


class LakeSettings(Settings):
    """Settings given in Python, by field name: `LakeSettings(service_url=…, start_time=…, storage_url=…)`.

    The environment is not read. Text is converted as in a variable: `"2026-03-01T00:00Z"` is a time.
    """

    if TYPE_CHECKING:  # types of what is given; fields have the types of `Settings` after validation
        authentication: Authentication | str = Authentication.DEFAULT  # type: ignore[assignment]
        start_time: datetime | str | None = None  # type: ignore[assignment]
        end_time: datetime | str | None = None  # type: ignore[assignment]
        spark_remote: SecretStr | str | None = None  # type: ignore[assignment]
        extra_columns: tuple[tuple[Column, Grain], ...] | str = ()  # type: ignore[assignment]
        alert_webhook_url: SecretStr | str | None = None  # type: ignore[assignment]
        azure_client_secret: SecretStr | str | None = None  # type: ignore[assignment]
        azure_storage_account_key: SecretStr | str | None = None  # type: ignore[assignment]
        azure_storage_sas_token: SecretStr | str | None = None  # type: ignore[assignment]
    else:

        def __init__(self, **values: Any) -> None:
            """Validate the values.

            Raises:
                SettingsError: Some values cannot be used; the text lists them, with what is wrong and what to do.
            """
            problems = [(name, "there is no such setting.") for name in values if name not in Settings.model_fields]
            problems += [(name, name_fields(text)) for name, text in check_settings(values)[1]]
            if problems:
                raise _to_error(problems)
            super().__init__(**values)


class SettingRow(NamedTuple):
    """One setting, for the documentation."""

    variable: str
    default: str
    """Default as text; empty where there is none."""
    meaning: str


def describe_settings() -> list[SettingRow]:
    """Return every variable with its default and meaning, in the documentation's order."""
    return [
        SettingRow(str(field.alias), str(field.default) if field.default else "", str(field.description))
        for field in Settings.model_fields.values()
        if field.description
    ]


def _warn_of_misspellings(environment: Mapping[str, str], variables: list[str]) -> None:
    for name in sorted(set(environment) - set(variables)):
        if name.startswith(PREFIX):
            for meant in difflib.get_close_matches(name, variables, n=1, cutoff=0.85):
                logger.warning("%s is not a setting, so it does nothing. Did you mean %s?", name, meant)
