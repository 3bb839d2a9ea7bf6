"""Several DICOM services in one lake: a file that lists the services, and the settings of each.

Each service has the environment's settings, except for settings that the file overrides. Its tables lie in a folder
with the service's name, unless all services share the tables. An identity is inherited as a whole or not at all: a
service that has one of the identity's settings in the file takes none of them from the environment.
"""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

from dicom_assets.config import rules
from dicom_assets.config.document import load_document
from dicom_assets.config.settings import Settings, check_settings, load_settings, name_fields, read_variables
from dicom_assets.core.columns.schema import SERVICE
from dicom_assets.core.errors import SettingsError
from dicom_assets.core.problem import Place, Problem

IDENTITY = ("authentication", "azure_tenant_id", "azure_client_id", "azure_client_secret", "azure_authority_host")
PATHS = tuple(name for name in Settings.model_fields if name.endswith("_table_path"))
FIELDS = (
    "service_url", "token_scope", "api_version", "batch_size", "max_concurrent_requests", "start_time", "end_time",
    "window_delay_minutes", "sensor_interval_seconds", "look_back_hours", "catch_up_hours_per_run", "catch_up_runs",
    "container_name", *PATHS, "file_system_url", *IDENTITY,
)  # fmt: skip
"""Settings that a service may override; the others belong to the lake."""
_PLACES = ("container_name", *PATHS)
"""Settings of the tables' locations; they belong to the lake where the services share tables."""
_OF_THE_LAKE = frozenset(Settings.model_fields) - {
    *FIELDS, "services", "service_name", "environment", "sharing",
}  # fmt: skip
_COMMON = "all services have that in common. Set {} in the environment."
_SECRETS = ("azure_client_secret",)
_LIST = "services"
_TABLES = "tables"
_SHARED, _OWN = _CHOICES = ("shared", "own")
"""Values of `tables`: one set of tables for all services, with a column that names a row's service; or one set for
each service."""
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_LONGEST_NAME = 40
_OF_SQL = (
    "all_services", "information_schema", "lateral", "public", "table", "unnest",
    *(path.removesuffix("_table_path") for path in PATHS),
)  # fmt: skip
"""Names with another meaning in SQL, where a service's name precedes its tables' names (`north.instance`)."""
_EXAMPLE = f'service_url = "{rules.SERVICE_URL_EXAMPLE}"'
_HEAD = "[services.NAME]"


def load_services(env: Mapping[str, str] | None = None) -> tuple[Settings, ...]:
    """Return the settings of every service: only the environment's where DICOM_SERVICES is not set.

    Args:
        env: The environment; None means the process's own.

    Raises:
        SettingsError: A variable or the file cannot be used; the text shows every fault.
    """
    environment = os.environ if env is None else env
    common = load_settings(environment)
    if common.services is None:
        return (common,)
    if common.service_url is not None:
        raise SettingsError(
            "DICOM_SERVICE_URL is set, and DICOM_SERVICES too: it is not clear which services are meant. Unset one of "
            "the two; in the file each service has a service_url of its own."
        )
    parse = partial(_parse, common, environment)
    path = Path(common.services).expanduser()
    try:
        return load_document(path, parse, help_page="docs/services.md", show=_hide_value)
    except SettingsError as error:
        raise SettingsError(f"DICOM_SERVICES cannot be used: {error}") from None


def build_services(values: Mapping[str, str]) -> tuple[Settings, ...]:
    """Return the settings of every service from values by field name, in place of variables.

    In the file of services, `{ env = "VARIABLE" }` is a variable of the process.

    Raises:
        SettingsError: As in `load_services`.
    """
    variables = {field: str(info.alias) for field, info in Settings.model_fields.items()}
    environment = {name: text for name, text in os.environ.items() if name not in variables.values()}
    return load_services(environment | {variables[field]: text for field, text in values.items()})


def load_service(name: str | None = None, env: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of one service.

    Args:
        name: Name in the file that DICOM_SERVICES names; None where there is only one service.
        env: The environment; None means the process's own.

    Raises:
        SettingsError: As in `load_services`; or there are several services and `name` is None; or no service has the
            name.
    """
    (settings,) = choose_services(name, env, one=True)
    return settings


def choose_services(
    name: str | None = None, env: Mapping[str, str] | None = None, *, one: bool = False
) -> tuple[Settings, ...]:
    """Return the settings of the service with a name, or of all services.

    Args:
        name: Name in the file that DICOM_SERVICES names; None means all services.
        env: The environment; None means the process's own.
        one: Whether to refuse a result of several services.

    Raises:
        SettingsError: As in `load_services`; or no service has the name; or `one` is set and there are several.
    """
    services = load_services(env)
    names = [str(each.service_name) for each in services if each.service_name]
    if name is not None and name not in names:
        known = f"DICOM_SERVICES lists {', '.join(names)}" if names else "DICOM_SERVICES lists none: it is not set"
        raise SettingsError(f"There is no service {name!r}. {known}.")
    chosen = tuple(each for each in services if name is None or each.service_name == name)
    if one and len(chosen) > 1:
        raise SettingsError(
            f"There are several services: {', '.join(names)}. Name one: --service NAME, load_service(NAME)."
        )
    return chosen


def _parse(
    common: Settings, environment: Mapping[str, str], document: object
) -> tuple[tuple[Settings, ...], Sequence[Problem]]:
    """Return the settings of the file's services, and all problems of the file."""
    problems: list[Problem] = []
    services: list[Settings] = []
    is_shared = _read_choice(document, problems) == _SHARED
    listed = list(_services(document, problems))
    sharing = tuple(name for _, name, _ in listed) if is_shared else ()
    for place, name, given in listed:
        before = len(problems)
        fields = dict(_read_fields(given, place, environment, problems, is_shared=is_shared))
        if "service_url" not in given:
            problems.append(Problem((*place, "service_url"), f"service_url is missing. Add it: {_EXAMPLE}."))
        if len(problems) == before:
            settings, wrong = check_settings(_complete(name, fields, common, environment, sharing))
            problems += [Problem((*place, field), _explain(field, text)) for field, text in wrong]
            services += [settings] if settings else []
    if not problems:
        problems += _find_conflicts(services)
    return tuple(services), problems


def _read_choice(document: object, problems: list[Problem]) -> str:
    """Return the file's value of `tables`; append a problem where it is invalid."""
    chosen = document.get(_TABLES, _OWN) if isinstance(document, dict) else _OWN
    if chosen in _CHOICES:
        return str(chosen)
    problems.append(
        Problem(
            (_TABLES,),
            f'{_TABLES}: this is neither "{_SHARED}" nor "{_OWN}". "{_SHARED}" keeps one set of tables for all '
            f'services, in which the column {SERVICE.name} tells whose a row is; "{_OWN}", as without it, a set for '
            "each.",
        )
    )
    return _OWN


def _services(document: object, problems: list[Problem]) -> Iterator[tuple[Place, str, dict[str, object]]]:
    """Yield the place, name and content of each valid service; append a problem for each invalid one."""
    content = document if isinstance(document, dict) else {}
    listed = content.get(_LIST)
    for key in content:
        if key not in (_LIST, _TABLES):
            problems.append(Problem((str(key),), f"{key!r} has no meaning here. Begin each service with {_HEAD}."))
    if not isinstance(listed, dict) or not listed:
        place: Place = (_LIST,) if _LIST in content else ()
        problems.append(Problem(place, f"There is no service in it. Begin each with {_HEAD}, and its settings below."))
        return
    for name, given in listed.items():
        place = (_LIST, name)
        if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
            problems.append(
                Problem(
                    place,
                    f"{name!r} cannot be the name of a service: it stands in names of assets, jobs and folders. Take "
                    f"small letters and digits, joined by single underscores, {_LONGEST_NAME} at most.",
                )
            )
        elif name in _OF_SQL:
            problems.append(
                Problem(
                    place,
                    f"{name!r} cannot be the name of a service: it has a meaning of its own in SQL, where "
                    "north.instance are the instances of the service north. Choose another.",
                )
            )
        elif not isinstance(given, dict):
            problems.append(Problem(place, f"{name} has no settings. Write [services.{name}], and each in a line."))
        else:
            yield place, name, given


def _read_fields(
    given: Mapping[str, object],
    place: Place,
    environment: Mapping[str, str],
    problems: list[Problem],
    *,
    is_shared: bool,
) -> Iterator[tuple[str, object]]:
    """Yield the service's own settings; `{ env = "VARIABLE" }` takes the value of a variable.

    Problems are appended to `problems`.
    """
    for field, value in given.items():
        at = (*place, field)
        if field not in FIELDS:
            problems.append(Problem(at, _unknown_field(field)))
        elif is_shared and field in _PLACES:
            problems.append(Problem(at, f"{field}: {_COMMON.format(Settings.model_fields[field].alias)}"))
        elif isinstance(value, dict):
            variable = value.get("env")
            if list(value) != ["env"] or not isinstance(variable, str):
                problems.append(
                    Problem(at, f'{field}: a table here names a variable: {field} = {{ env = "VARIABLE" }}.')
                )
            elif text := environment.get(variable, "").strip():
                yield field, text
            else:
                problems.append(Problem(at, f"{field}: the variable {variable} is not set. Set it where Dagster runs."))
        elif field in _SECRETS:
            problems.append(
                Problem(
                    at,
                    f"{field}: a secret does not belong in a file. Put it into a variable and name that here: "
                    f'{field} = {{ env = "VARIABLE" }}. If the file was shared, have a new secret made.',
                )
            )
        elif isinstance(value, list | bool):
            problems.append(Problem(at, f"{field}: a list or true and false is no value here. Give a text or number."))
        elif str(value).strip():
            yield field, str(value).strip()


def _complete(
    name: str, own: Mapping[str, object], common: Settings, environment: Mapping[str, str], sharing: tuple[str, ...]
) -> dict[str, object]:
    """Return all values of a service's settings: its own, and the environment's for the rest."""
    inherited: dict[str, object] = dict(read_variables(environment))
    for field in ("services", *(IDENTITY if any(part in own for part in IDENTITY) else ())):
        inherited.pop(field, None)
    paths = {} if sharing else {field: f"{name}/{getattr(common, field)}" for field in PATHS}
    return {
        **inherited,
        **paths,
        "extra_columns": common.extra_columns,
        "service_name": name,
        "environment": common,
        "sharing": sharing,
        **own,
    }


def _find_conflicts(services: Iterable[Settings]) -> Iterator[Problem]:
    """Yield a problem for each service URL that is used twice, and each table path that overlaps another service's."""
    for one, other in combinations(services, 2):
        place, before = (_LIST, str(other.service_name)), (_LIST, str(one.service_name))
        if one.service_url == other.service_url:
            yield Problem(
                (*place, "service_url"),
                "service_url: another service has the same, so all of it would be read twice. Take one of them out.",
                (*before, "service_url"),
            )
        for field in () if other.shares_tables else PATHS:
            taken = next((each for each in PATHS if _do_overlap(one, each, other, field)), None)
            if taken is not None:
                yield Problem(
                    (*place, field),
                    f"{field}: {getattr(other, field)!r} overlaps {getattr(one, taken)!r}, the {taken} of "
                    f"{one.service_name}: each service would take the other's rows for its own. Give each table a "
                    "folder of its own.",
                    (*before, taken),
                )


def _do_overlap(one: Settings, path: str, other: Settings, other_path: str) -> bool:
    same_container = one.container_name == other.container_name
    return same_container and rules.do_overlap(getattr(one, path), getattr(other, other_path))


def _unknown_field(field: str) -> str:
    plain = field.lower().removeprefix("dicom_")
    if plain in _OF_THE_LAKE:
        return f"{field}: {_COMMON.format(Settings.model_fields[plain].alias)}"
    if plain == _TABLES:
        return f"{field}: all services have that in common. Put it above the first {_HEAD}."
    near = difflib.get_close_matches(plain, FIELDS, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(FIELDS)}."
    return f"{field}: there is no such setting of a service. {hint}"


def _explain(field: str, text: str) -> str:
    """Return a problem's text with the file's field names in place of variables."""
    return f"{field}: {name_fields(text, FIELDS)}"


def _hide_value(line: str) -> str:
    """Return a line of the file without its value, which may be a misplaced secret."""
    name, sign, value = re.match(r"([^=:]*)([=:]?)(.*)", line).groups()  # type: ignore[union-attr]
    return f"{name}{sign} …" if value.strip() else line
