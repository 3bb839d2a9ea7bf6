"""Validation rules of the settings. A rule returns the value, perhaps normalised, or raises a ValueError.

A message shows the error's text after the variable's name: the text says what is wrong, why, and what to do.
"""

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlsplit

from dicom_assets.core.columns.schema import TABLES, Column, Grain
from dicom_assets.core.errors import SettingsError
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE, PROFILE
from dicom_assets.identity.credentials import DICOM_SCOPE
from dicom_assets.network.hosts import is_loopback

ENGINES = ("delta-rs", "spark")
"""Engines that can merge rows into the tables."""
_ACCOUNT_HOST = re.compile(r"([a-z0-9]+)\.dfs\.[a-z0-9.]+")
_ONELAKE_HOST = re.compile(r".*\b(dfs|blob|onelake)\.(fabric|pbidedicated)\..*")
_DIGITS = re.compile(r"[+-]?\d{1,12}")
_SHOWN_CHARACTERS = 40
_LONGEST_NAME = 255
_LONGEST_PATH = 2048
FABRIC_URL = "https://api.fabric.microsoft.com"
FABRIC_SCOPE = "https://api.fabric.microsoft.com/.default"
SERVICE_URL_EXAMPLE = "https://WORKSPACE-SERVICE.dicom.azurehealthcareapis.com"


def _show(value: object) -> str:
    """Return a value for a message, shortened, so that a secret in the wrong variable does not get into a log whole."""
    text = str(value)
    return repr(text if len(text) <= _SHOWN_CHARACTERS else f"{text[:20]}…")


def require_whole_number(low: int, high: int, why: str) -> Callable[[object], int]:
    """Return a rule that parses a whole number between two bounds, both inclusive."""

    def parse(value: object) -> int:
        if not _DIGITS.fullmatch(str(value)):
            raise ValueError(f"{_show(value)} is not a whole number. Set a number from {low} to {high}: {why}.")
        if not low <= int(str(value)) <= high:
            raise ValueError(f"{value} is not between {low} and {high}: {why}. Set a number in between.")
        return int(str(value))

    return parse


def require_match(pattern: str, problem: str) -> Callable[[str], str]:
    """Return a rule that accepts a text that matches a regular expression as a whole.

    Args:
        pattern: regular expression.
        problem: text that follows the value in the message: what is wrong, and what to do.
    """

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{_show(value)} {problem}")
        return value

    return check


def require_choice(choices: Sequence[str], kind: str) -> Callable[[str], str]:
    """Return a rule that accepts one of some names in any case, and returns it in lower case."""

    def check(value: str) -> str:
        if value.lower() not in choices:
            raise ValueError(f"{_show(value)} is not {kind}. Set one of {', '.join(choices)}.")
        return value.lower()

    return check


check_container_name = require_match(
    r"(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]",
    "is not a name that Azure allows: 3 to 63 lower-case letters, digits and single hyphens, with a letter or digit at "
    "both ends. Choose such a name.",
)
check_pool_name = require_match(
    r"[A-Za-z0-9_/]+",
    "is not a name that Dagster allows for a pool: letters, digits, underscores and slashes. Choose such a name, as "
    "dicom_service.",
)
check_token_scope = require_match(
    r"\S+/\.default", f"is not a scope: it must be the audience followed by /.default, such as {DICOM_SCOPE}."
)


def parse_api_version(value: object) -> int:
    """Parse the number of an API version that the client supports."""
    number = str(value).lower().removeprefix("v")
    if number == "1":
        raise ValueError(
            "1 cannot be used: there `offset` is a sequence, not a number of rows. Set 2 or a later version."
        )
    if not re.fullmatch(r"[1-9]\d{0,3}", number):
        raise ValueError(f"{_show(value)} is not a version of the service's API. Set 2, or a later whole number.")
    return int(number)


def parse_hour(value: object) -> datetime:
    """Parse a time with a zone, and return the start of its hour in UTC."""
    example = "such as 2026-03-01T00:00Z"
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        if time.tzinfo is not None:
            return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    except (ValueError, OverflowError):
        raise ValueError(f"{_show(value)} is not a time. Set an ISO 8601 time with its zone, {example}.") from None
    raise ValueError(f"{_show(value)} has no time zone, so the hour is not known. Add the zone, {example}.")


def _parse_url(value: str, problem: str) -> SplitResult:
    """Return the parts of a URL. No message shows the URL, which may hold a secret."""
    try:
        url = urlsplit(value)
        url.port  # noqa: B018 — raises for a port that is not a number
    except ValueError:
        raise ValueError(problem) from None
    return url


def _split_url(value: str, example: str) -> SplitResult:
    """Return the parts of a URL, and refuse the parts that can hold secrets."""
    url = _parse_url(value, f"is not a URL. Set one such as {example}.")
    if url.query or url.fragment or "?" in value or "#" in value:
        raise ValueError(
            "has a query or fragment (?… or #…), where keys and signatures travel. Set the URL without it."
        )
    if url.password is not None or (url.username is not None and url.scheme != "abfss"):
        raise ValueError("has a user name or password in it. Set the URL without them.")
    return url


def _is_private(url: SplitResult) -> bool:
    """Return whether nobody else can read requests to a URL: https, or plain http to this machine."""
    return bool(url.hostname) and (url.scheme == "https" or (url.scheme == "http" and is_loopback(str(url.hostname))))


def check_service_url(value: str) -> str:
    """Check the service's base URL, and return it without a slash at its end."""
    url = _split_url(value, SERVICE_URL_EXAMPLE)
    if url.scheme not in {"https", "http"} or not url.hostname:
        raise ValueError(f"is not an http(s) URL. Set the service's base URL, such as {SERVICE_URL_EXAMPLE}.")
    if not _is_private(url):
        raise ValueError(
            f"is plain http to {url.hostname}: tokens and patient data would be readable on the way. Set an https:// "
            "URL (plain http is for this machine alone)."
        )
    if wrong := re.search(r"/(v\d+|changefeed)(/|$)", url.path):
        raise ValueError(
            f"has {wrong[0].rstrip('/')} in its path, which the client adds by itself. Set the base URL without it, "
            "and the version in DICOM_API_VERSION."
        )
    return value.rstrip("/")


def check_webhook_url(value: str) -> str:
    """Check the URL that alerts are posted to. The whole URL is a secret, since anybody who has it can post alerts."""
    url = _parse_url(value, "is not a URL. Set the https:// URL that the receiver gave you.")
    if not _is_private(url):
        raise ValueError(
            "is not an https:// URL, so others could read the alerts, and post their own. Set the https:// URL that "
            "the receiver gave you (plain http is for this machine alone)."
        )
    return value


def check_dagster_url(value: str) -> str:
    """Check the base URL of Dagster's UI, and return it without a slash at its end."""
    example = "https://dagster.example.org"
    url = _split_url(value, example)
    if url.scheme not in {"https", "http"} or not url.hostname:
        raise ValueError(f"is not an http(s) URL. Set the address of Dagster's UI, such as {example}.")
    return value.rstrip("/")


def check_storage_url(value: str) -> str:
    """Check the location of the lake.

    Returns:
        A path for a folder, `https://HOST` for a storage account, the URL for an emulator on this machine.
    """
    example = "https://ACCOUNT.dfs.core.windows.net"
    if "://" not in value:
        return str(Path(value).expanduser())
    url = _split_url(value, example)
    if url.scheme == "file":
        return _local_path(url)
    host = url.hostname or ""
    if _ONELAKE_HOST.fullmatch(host):
        raise ValueError(
            "is OneLake, where no file of a table can be deleted: OneLake refuses the requests that the libraries for "
            "Delta tables delete files with, so upkeep would fail, and files of deleted patients would stay for ever. "
            "With names of workspaces and items not even a table can be made. Keep the tables in a storage account "
            f"({example}), and let Fabric read them through shortcuts: `dicom-assets fabric-shortcuts`, see "
            "docs/azure.md."
        )
    if url.scheme in {"http", "https"} and is_loopback(host) and re.fullmatch(r"/[a-z0-9]+/?", url.path):
        return value.rstrip("/")  # Azurite: http://127.0.0.1:10000/ACCOUNT, or https for identities
    if url.scheme not in {"https", "abfss"} or not _ACCOUNT_HOST.fullmatch(host):
        raise ValueError(
            f"is neither a folder nor a storage account. Set a path such as ./data, or {example} (dfs, not blob)."
        )
    if url.username is not None or url.path.strip("/"):
        raise ValueError(f"names more than the account. Set {example}, and the file system in DICOM_CONTAINER_NAME.")
    return f"https://{host}"


def check_authority(value: str) -> str:
    """Check the URL of the host that issues Entra's tokens, which must be https since secrets are sent there.

    Returns:
        `https://HOST`, without a path.
    """
    example = "https://login.microsoftonline.us"
    url = _split_url(value if "://" in value else f"https://{value}", example)
    if url.scheme != "https" or not url.hostname or url.path.strip("/"):
        raise ValueError(f"is not an https URL of a host alone. Set one such as {example}.")
    return f"https://{url.netloc}"


def check_account_key(value: str) -> str:
    """Check the key of a storage account. No message shows the key."""
    try:
        base64.b64decode(value, validate=True)
    except binascii.Error:
        raise ValueError("is not a key: it is not base64, so it was not copied whole. Copy it again.") from None
    return value


def check_sas_token(value: str) -> str:
    """Check a SAS token, the query of a signed URL, and return it without `?`. No message shows the token."""
    parts = dict(parse_qsl(value.removeprefix("?")))
    if missing := [name for name in ("sv", "sig") if name not in parts]:
        raise ValueError(
            f"is not a SAS token: it has no {' and no '.join(missing)}. Set all of the signed URL after `?`."
        )
    return value.removeprefix("?")


def check_table_path(value: str) -> str:
    """Check a table's path inside the container."""
    if "\\" in value or "://" in value or any(part in {"", ".", ".."} for part in value.split("/")):
        raise ValueError(
            f"{_show(value)} is not a path inside the container. Set names joined by /, such as silver/instance, "
            "that neither start with / nor hold . or .. parts."
        )
    return value


def do_overlap(path: str, other: str) -> bool:
    """Return whether two folders are equal or one contains the other; case is ignored, as some file systems do."""
    one, two = f"{path}/".casefold(), f"{other}/".casefold()
    return one.startswith(two) or two.startswith(one)


def check_file_system_url(value: str) -> str:
    """Check the location of the DICOM files.

    Returns:
        A path for a folder, `abfss://FILESYSTEM@HOST` for a file system.
    """
    if "://" not in value:
        return str(Path(value).expanduser())
    example = "https://ACCOUNT.dfs.core.windows.net/FILESYSTEM or abfss://FILESYSTEM@ACCOUNT.dfs.core.windows.net"
    url = _split_url(value, example)
    if url.scheme == "file":
        return _local_path(url)
    if _ONELAKE_HOST.fullmatch(url.hostname or ""):
        raise ValueError(
            "is OneLake, where the DICOM service keeps no files: what is seen there are shortcuts to its file system. "
            f"Set that file system, {example}."
        )
    path = url.path.strip("/")
    name, beyond = (url.username, path) if url.scheme == "abfss" else (path, "")
    if url.scheme not in {"https", "abfss"} or not _ACCOUNT_HOST.fullmatch(url.hostname or ""):
        raise ValueError(f"is neither a folder nor a file system of Data Lake Storage. Set {example}.")
    if not name or "/" in name or beyond:
        raise ValueError(f"must name one file system, neither less nor a folder inside it. Set {example}.")
    return f"abfss://{name}@{url.hostname}"


def _local_path(url: SplitResult) -> str:
    if url.netloc not in {"", "localhost"}:
        raise ValueError("names a folder of another machine. Set a path of this machine, such as file:///srv/lake.")
    from urllib.request import url2pathname

    return url2pathname(url.path)


def check_id(value: str) -> str:
    """Check a GUID, and return it in lower case."""
    return _check_guid(value.lower())


_check_guid = require_match(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "is not an ID. Set the GUID: of a workspace and a lakehouse it stands in the address "
    "(…/groups/WORKSPACE/lakehouses/LAKEHOUSE), of a connection in its settings.",
)


def check_spark_remote(value: str) -> str:
    """Check the address of a Spark Connect server. No message shows it, since it may hold a token."""
    problem = "is not an address of a Spark Connect server. Set sc://HOST:15002, with /;token=… where need be."
    url = _parse_url(value, problem)
    if url.scheme != "sc" or not url.hostname or url.path.partition(";")[0] not in {"", "/"}:
        raise ValueError(problem)
    return value


def check_fabric_url(value: str) -> str:
    """Check the base URL of the Fabric REST API, and return it without a slash at its end."""
    url = _split_url(value, FABRIC_URL)
    if not _is_private(url):
        raise ValueError(f"is not an https URL. Set the base URL of the Fabric REST API, such as {FABRIC_URL}.")
    if url.path.strip("/"):
        raise ValueError(f"has a path, which the client adds by itself. Set the base URL alone, such as {FABRIC_URL}.")
    return value.rstrip("/")


def check_shortcut_name(value: str) -> str:
    """Check that Fabric and all its engines can read a shortcut's name."""
    if len(value) > _LONGEST_NAME:
        raise ValueError(f"{_show(value)} has {len(value)} characters, and {_LONGEST_NAME} are allowed. Shorten it.")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", value):
        raise ValueError(
            f"{_show(value)} cannot be the name of a shortcut: Fabric does not read every other character in a "
            "table's name. Use letters without accents, digits, _, - and full stops."
        )
    return value


def check_shortcut_target(value: str) -> str:
    """Check that a shortcut can point to a folder."""
    if len(value) > _LONGEST_PATH or not re.fullmatch(r"[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*", value):
        raise ValueError(
            f"{_show(value)} cannot be the target of a shortcut: Fabric allows letters without accents, digits, . _ ~ "
            f"and - in each folder's name, and {_LONGEST_PATH} characters in all. Rename the folder, or point to one "
            "above it."
        )
    return value


def parse_fabric_tables(value: str) -> dict[str, str]:
    """Parse a list such as `instance, series=ct_series`, and return the shortcuts' names by table name."""
    known = [table.name for table in (*TABLES, HEALTHCARE_INSTANCE)]
    names: dict[str, str] = {}
    for entry in value.split(","):
        table, _, name = (part.strip() for part in entry.partition("="))
        if table not in known:
            raise ValueError(f"{_show(table)} is not a table. Set some of {', '.join(known)}, with commas in between.")
        names[table] = check_shortcut_name(name or table)
    if len({name.casefold() for name in names.values()}) < len(names):
        raise ValueError("gives two tables the same name. Give each a name of its own.")
    return names


def check_fabric_tables(value: str) -> str:
    """Check the list that `parse_fabric_tables` parses, and return its text unchanged."""
    parse_fabric_tables(value)
    return value


def check_profile(value: str) -> str:
    """Check the name of a table profile; there is one profile."""
    if value != PROFILE:
        raise ValueError(f"{_show(value)} is not a table layout. Set {PROFILE}, or unset it for the five tables alone.")
    return value


def load_extra_columns(value: object) -> tuple[tuple[Column, Grain], ...]:
    """Return the columns listed in a file. Columns that are loaded already are returned unchanged."""
    if isinstance(value, tuple):
        return value
    from dicom_assets.config.column_file import load_columns  # imports a DICOM dictionary, which few need

    try:
        return load_columns(Path(str(value)).expanduser())
    except SettingsError as error:
        raise ValueError(str(error)) from error
