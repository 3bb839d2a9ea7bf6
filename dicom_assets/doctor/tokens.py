"""Checks of the tokens that are sent: identity, audience, rights and expiry. Only claims of a token are ever shown."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from dicom_assets.config.connections import build_auth
from dicom_assets.config.settings import Settings
from dicom_assets.core.finding import Fact, Finding
from dicom_assets.doctor.findings import green, red, yellow
from dicom_assets.doctor.surroundings import Surroundings
from dicom_assets.identity.credentials import Host
from dicom_assets.identity.tokens import read_claims
from dicom_assets.lake.storage.storage import STORAGE_SCOPE

_OF_PEOPLE = (Host.TERMINAL, Host.UNKNOWN)
_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def check_service_token(surroundings: Surroundings) -> Finding:
    """Check that there is a token for the service, with the service's audience."""
    settings = surroundings.settings
    return _check_token(surroundings, "token.service", settings, settings.token_scope, settings.require_service_url())


def check_storage_token(surroundings: Surroundings) -> Finding:
    """Check that there is a token for the storage account; a local folder needs none."""
    settings = surroundings.settings
    if settings.storage_account is None:
        return green("The lake is a folder, which needs no token")
    return _check_token(surroundings, "token.storage", settings.of_lake, STORAGE_SCOPE, settings.storage_url)


def _check_token(surroundings: Surroundings, check: str, signer: Settings, scope: str, url: str) -> Finding:
    auth = build_auth(signer, scope)
    if auth is None:
        return green(f"DICOM_AUTHENTICATION={signer.authentication}: requests go out without a token")
    import httpx

    request = next(auth.sync_auth_flow(httpx.Request("GET", url)))
    claims = read_claims(request.headers["Authorization"].removeprefix("Bearer "))
    if claims is None:
        return yellow(
            f"There is a token for {scope}, but it is of a form that cannot be looked into",
            why="Not every authority hands out JSON Web Tokens",
            remedy="See whether the service and the lake accept it, below",
        )
    facts = _select_facts(claims)
    if facts["object_id"]:
        surroundings.object_ids[check] = str(facts["object_id"])
    return _judge(claims, facts, scope, surroundings.now(), host=signer.host)


def _judge(claims: Mapping[str, Any], facts: dict[str, Fact], scope: str, now: datetime, *, host: Host) -> Finding:
    wanted = scope.removesuffix("/.default").rstrip("/")
    audience = str(claims.get("aud", "")).rstrip("/")
    who = f"identity {facts['object_id'] or 'without an object id'}, tenant {facts['tenant_id'] or 'unknown'}"
    if audience != wanted and not _GUID.fullmatch(audience):
        return red(
            f"The token is for {audience or 'nobody'}, not for {wanted} ({who})",
            why="The scope names another audience than the authority put into the token",
            remedy="Check DICOM_TOKEN_SCOPE and DICOM_AUTHENTICATION; in a sovereign cloud both have other values",
            facts=facts,
        )
    expires = _parse_time(claims.get("exp"))
    if expires is not None and expires <= now:
        return red(
            f"The token expired at {expires:%Y-%m-%d %H:%M:%S}Z ({who})",
            why="This machine's clock is ahead, or an old token was left in a cache",
            remedy="Check the clock" + ("; sign in again (az login)" if host in _OF_PEOPLE else ""),
            facts=facts,
        )
    until = f", valid until {expires:%H:%M}Z" if expires else ""
    allowed = f", roles {facts['roles']}" if facts["roles"] else ""
    if audience != wanted:
        return yellow(
            f"There is a token for the application {audience}{until}{allowed} ({who})",
            why=f"Some authorities name an audience by its application's id: whether it is {wanted} cannot be seen",
            remedy="See whether the service and the lake accept it, below",
            facts=facts,
        )
    return green(f"There is a token for {wanted}{until}{allowed} ({who})", facts=facts)


def _select_facts(claims: Mapping[str, Any]) -> dict[str, Fact]:
    """Return the claims that may be shown; never a person's name or address, which a person's token holds."""
    expires = _parse_time(claims.get("exp"))
    roles = claims.get("roles")
    return {
        "audience": _as_text(claims.get("aud")),
        "object_id": _as_text(claims.get("oid")),
        "application_id": _as_text(claims.get("appid") or claims.get("azp")),
        "tenant_id": _as_text(claims.get("tid")),
        "roles": " ".join(map(str, roles)) if isinstance(roles, list) else _as_text(roles),
        "scopes": _as_text(claims.get("scp")),
        "expires_at": expires.isoformat() if expires else None,
    }


def _as_text(value: object) -> str | None:
    return None if value is None else str(value)


def _parse_time(value: object) -> datetime | None:
    return datetime.fromtimestamp(value, UTC) if isinstance(value, int | float) else None
