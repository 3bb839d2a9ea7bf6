"""Query parameters of the change feed, parsed as the service parses them.

Source: the public DICOM server's controller, its model binders and pagination options (API v2).
"""

import re
from collections.abc import Mapping
from typing import Final

from starlette.exceptions import HTTPException

from dicom_assets.emulator.clock import Ticks, parse_ticks
from dicom_assets.emulator.store.feed import PageRequest

DEFAULT_LIMIT: Final = 100
MAXIMUM_LIMIT: Final = 200
_GREATEST_OFFSET: Final = 2**63 - 1
_INTEGER = re.compile(r"\s*[+-]?\d{1,40}\s*", re.ASCII)
_BOOLEANS: Final = {"true": True, "false": False}


def parse_page_request(query: Mapping[str, str]) -> PageRequest:
    """Parse the page that a query string requests; parameter names are case-insensitive.

    Raises:
        HTTPException: A time has no zone, the window is empty, a number is out of range, or a value has another type
            (400).
    """
    query = _lowered(query)
    start, end = _moment(query, "startTime"), _moment(query, "endTime")
    if start is not None and end is not None and end <= start:
        raise HTTPException(400, "The endTime must be after the startTime.")
    return PageRequest(
        start,
        end,
        _integer(query, "offset", 0, 0, _GREATEST_OFFSET),
        _integer(query, "limit", DEFAULT_LIMIT, 1, MAXIMUM_LIMIT),
        _boolean(query, "includeMetadata"),
    )


def parse_include_metadata(query: Mapping[str, str]) -> bool:
    """Return whether a query string requests metadata.

    Raises:
        HTTPException: The value is not a boolean (400).
    """
    return _boolean(_lowered(query), "includeMetadata")


def _lowered(query: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in query.items()}


def _moment(query: Mapping[str, str], name: str) -> Ticks | None:
    value = query.get(name.lower(), "")
    if not value.strip():
        return None
    try:
        return parse_ticks(value)
    except ValueError as error:
        raise HTTPException(400, f"The {name} must be a date and time with a time zone, as ISO 8601.") from error


def _integer(query: Mapping[str, str], name: str, default: int, least: int, greatest: int) -> int:
    value = query.get(name)
    if value is None:
        return default
    if not _INTEGER.fullmatch(value) or not least <= int(value) <= greatest:
        raise HTTPException(400, f"The {name} must be an integer between {least} and {greatest}.")
    return int(value)


def _boolean(query: Mapping[str, str], name: str) -> bool:
    value = query.get(name.lower())
    if value is None:
        return True
    try:
        return _BOOLEANS[value.strip().lower()]
    except KeyError as error:
        raise HTTPException(400, f"The {name} must be true or false.") from error
