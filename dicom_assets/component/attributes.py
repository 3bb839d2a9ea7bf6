"""Attributes of a component in YAML: the settings under their names, checked with the settings' own messages.

Text is taken verbatim. Dagster renders templates as Python values, so that a secret `1e5` would become a number; here
`{{ env.NAME }}` is the text of the variable, and nothing where the variable is unset.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from dagster.components.resolved.errors import ResolutionException
from jinja2 import Environment
from pydantic import BaseModel, Field, create_model

from dicom_assets.config.services import build_services
from dicom_assets.config.settings import LOCATIONS, SECRETS, Settings, check_settings, name_fields
from dicom_assets.core.errors import SettingsError
from dicom_assets.defs.naming import check_key_prefix

_TEMPLATES = Environment(finalize=lambda value: "" if value is None else value)  # noqa: S701 - text, not HTML
_IN_PLAIN = (
    "a secret does not belong in a file. Put it into a variable, and write '{{ env.VARIABLE }}' here. If the file was "
    "shared, have a new secret made."
)
_REQUIRED = ("storage_url",)
"""Settings whose defaults depend on the folder in which a process runs."""


def build_model(name: str, own: Mapping[str, Any], settings: Collection[str] | None = None) -> type[BaseModel]:
    """Return the model of a component's attributes: the settings, and the component's own attributes.

    Args:
        name: Name of the model.
        own: Types and fields of the own attributes by name, as for `pydantic.create_model`.
        settings: Names of the settings that are attributes; None means all.
    """
    fields: dict[str, Any] = dict(own)
    for field, info in Settings.model_fields.items():
        if info.description and (settings is None or field in settings):
            kind = int | str | None if info.annotation is int else str | None
            default = ... if field in _REQUIRED else None
            described = Field(default=default, description=name_fields(info.description))
            fields[field] = (str if field in _REQUIRED else kind, described)
    return create_model(name, __base__=dg.Model, **fields)


def resolve_settings(context: dg.ResolutionContext, model: BaseModel) -> tuple[Settings, ...]:
    """Return the settings of every service; relative paths begin at the folder of the YAML file.

    Raises:
        ResolutionException: Attributes cannot be used; the text shows each with its line in the file.
    """
    given = {
        name: value for name, value in model.model_dump(exclude_none=True).items() if name in Settings.model_fields
    }
    plain = [(name, _IN_PLAIN) for name in SECRETS if name in given and "{{" not in str(given[name])]
    if plain:
        raise build_error(context, plain, shows_lines=False)
    rendered = {name: _render(context.at_path(name), value) for name, value in given.items()}
    values = {name: _locate(context, name, text) for name, text in rendered.items() if text}
    settings, problems = check_settings(values)
    if settings is None:
        shows_lines = not any(map(_may_hold_secret, given.values()))
        raise build_error(context, [(name, name_fields(text)) for name, text in problems], shows_lines=shows_lines)
    if settings.services is None:
        return (settings,)
    try:
        return build_services(values)
    except SettingsError as error:
        raise build_error(context, [("services", name_fields(str(error)))]) from None


def resolve_own(context: dg.ResolutionContext, model: BaseModel, own: Collection[str]) -> dict[str, Any]:
    """Return the values of a component's own attributes, as far as they are given.

    Raises:
        ResolutionException: The key prefix cannot be one; the text shows it with its line in the file.
    """
    given = model.model_dump(include=model.model_fields_set & set(own))
    values = {name: context.at_path(name).resolve_value(value) for name, value in given.items()}
    try:
        check_key_prefix(values.get("key_prefix"))
    except SettingsError as error:
        raise build_error(context, [("key_prefix", str(error))]) from None
    return values


def build_error(
    context: dg.ResolutionContext, problems: Sequence[tuple[str, str]], *, shows_lines: bool = True
) -> ResolutionException:
    """Return the error that shows each problem below its line of the file.

    Args:
        context: Context of the attributes.
        problems: Names of attributes, each with its problem.
        shows_lines: Whether the file's lines may be shown; they may not where they hold a secret.
    """
    return ResolutionException("\n".join(_explain(context, name, text, shows_lines) for name, text in problems))


def _explain(context: dg.ResolutionContext, name: str, text: str, shows_line: bool) -> str:
    if context.source_position_tree is None:
        return f"{name}: {text}"
    source = context.source_position_tree.source_error(
        yaml_path=[*context.path, name], inline_error_message=f"{name}: {text}", value_error=True
    )
    below = f"\n{source.snippet}" if shows_line and source.snippet else f": {text}"
    return f"{source.file_name}:{source.start_line_no} - {source.location}{below}"


def _render(context: dg.ResolutionContext, value: object) -> str:
    if not isinstance(value, str) or "{{" not in value:
        return str(value).strip()
    context.resolve_value(value)  # raises Dagster's error, with the line, where a name is unknown
    return _TEMPLATES.from_string(value).render(**context.scope).strip()


def _locate(context: dg.ResolutionContext, name: str, text: str) -> str:
    """Return a value with an absolute path in place of a relative one."""
    if name not in LOCATIONS or "://" in text:
        return text
    return str(context.resolve_source_relative_path(str(Path(text).expanduser())))


def _may_hold_secret(value: object) -> bool:
    """Return whether a value may be a URL with a key, signature or password in it."""
    return re.search(r"://.*[?#@]", str(value)) is not None
