"""Authentication of requests to the DICOM service by a token."""

import logging
import re
from collections.abc import Generator

import httpx

from dicom_assets.core.errors import ServiceRefusedError, SettingsError
from dicom_assets.identity.tokens import Tokens, decode_object
from dicom_assets.network.hosts import is_loopback

logger = logging.getLogger(__name__)

# Azure's credentials answer from their own cache unless a request has claims; these claims are empty.
_NO_CLAIMS = '{"access_token":{}}'
_CLAIMS = re.compile(r'\bclaims="([A-Za-z0-9+/=_-]+)"')


class TokenAuth(httpx.Auth):
    """Authentication that puts a token on every request.

    Concurrent requests share one token request, and a token is renewed before it expires. After a 401 the request is
    sent once more with a token that comes from no cache. If the identity is refused such a token, the 401 stands.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def __repr__(self) -> str:
        return f"TokenAuth({self._tokens!r})"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Yield the request with a token, and after a 401 once more with a new token.

        Raises:
            SettingsError: the token would be sent unencrypted.
            ServiceRefusedError: the identity is refused a token.
            ServiceUnreachableError: the token service cannot be reached, or has a failure that passes.
        """
        if request.url.scheme != "https" and not is_loopback(request.url.host):
            raise SettingsError(
                f"A token would travel to {request.url.host} over plain http, for everybody on the way to read. "
                "Use https:// in DICOM_SERVICE_URL."
            )
        token = self._tokens.current()
        request.headers["Authorization"] = f"Bearer {token.token}"
        response = yield request
        if response.status_code != httpx.codes.UNAUTHORIZED:
            return
        try:
            token = self._tokens.renewed(token, _find_claims(response))
        except ServiceRefusedError as error:
            logger.warning("A new token after a 401 could not be had: %s", error)
            return
        request.headers["Authorization"] = f"Bearer {token.token}"
        yield request


def _find_claims(response: httpx.Response) -> str:
    """Return the claims that the service requests for a token; empty claims unless it names a JSON object.

    Source: claims challenges of Microsoft Entra, base64url without padding in `WWW-Authenticate`.
    """
    match = _CLAIMS.search(response.headers.get("WWW-Authenticate", ""))
    return (match and decode_object(match[1])) or _NO_CLAIMS
