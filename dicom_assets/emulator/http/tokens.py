"""Checks of bearer tokens that need no keys from Entra: audience and lifetime. Signatures are not checked."""

import base64
import hmac
import json
import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request


def check_token(request: Request, *, token: str | None, audience: str | None) -> None:
    """Check the bearer token of a request.

    Args:
        request: Any request.
        token: The only accepted token; None accepts any.
        audience: Audience that the token, a valid JWT, must have, such as `https://dicom.healthcareapis.azure.com`;
            None does not check it.

    Raises:
        HTTPException: The token is missing or refused (401).
    """
    if token is None and audience is None:
        return
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    is_right = token is None or hmac.compare_digest(given.strip().encode(), token.encode())
    if scheme.lower() != "bearer" or not is_right:
        raise HTTPException(401, "A valid bearer token is required.", {"WWW-Authenticate": "Bearer"})
    if audience is not None:
        claims = _claims(given.strip())
        if str(claims.get("aud")).rstrip("/") != audience.rstrip("/"):
            raise _refusal("The token was issued for another audience.")
        if not _number(claims, "nbf") <= time.time() < _number(claims, "exp"):
            raise _refusal("The token has expired, or is not valid yet.")


def _claims(token: str) -> dict[str, Any]:
    try:
        _, payload, _ = token.split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except ValueError:
        raise _refusal("The token is no JWT.") from None
    return claims if isinstance(claims, dict) else {}


def _number(claims: dict[str, Any], name: str) -> float:
    value = claims.get(name)
    return value if isinstance(value, int | float) else 0


def _refusal(reason: str) -> HTTPException:
    return HTTPException(401, reason, {"WWW-Authenticate": 'Bearer error="invalid_token"'})
