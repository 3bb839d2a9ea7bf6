"""Tokens of one identity for one scope: one token for all threads that need it at the same time.

Tokens are kept in memory only; no message, log or representation contains one.
"""

import base64
import binascii
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dicom_assets.core.errors import ServiceRefusedError, ServiceUnreachableError
from dicom_assets.identity.credentials import Authentication, Credential, Host, advise, advise_patience
from dicom_assets.identity.token_failures import TransientError, find_code, find_transient, recording
from dicom_assets.network.retries import RetryableError, RetryPolicy

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken

logger = logging.getLogger(__name__)

REFRESH_BEFORE_EXPIRY_SECONDS = 300
"""Seconds before a token's expiry from which on a new token is requested."""
PAUSE_SECONDS = 30
"""Seconds between two attempts to renew a token that is still valid."""
_RETRY = RetryPolicy(tries=4)
"""Retry policy of a token request that the caller must wait for. It waits at most 3.5 seconds in all, unless a
`Retry-After` demands more; if the failure lasts longer, the caller gets an error."""


class Tokens:
    """Tokens of one identity for one scope, shared by all threads: requested once, and renewed before they expire.

    Azure's credentials cache tokens too, but most of them let every thread send its own request at the same time.
    """

    def __init__(
        self,
        credential: Credential,
        scope: str,
        *,
        authentication: Authentication = Authentication.DEFAULT,
        host: Host = Host.UNKNOWN,
        retry: RetryPolicy | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        """Create the tokens' holder; the first request is sent when a token is needed.

        Args:
            credential: source of the tokens.
            scope: scope of the tokens.
            authentication: the credential's kind.
            host: the machine's kind, for advice in errors.
            retry: when to retry a request that the caller must wait for; None for the default policy.
            clock: returns seconds since 1970.
            sleep: waits for some seconds; None for the default wait.
        """
        self._credential = credential
        self._scope = scope
        self._authentication = authentication
        self._host = host
        self._retry = retry or _RETRY
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._token: AccessToken | None = None
        self._has_given = False
        self._pause_until = 0.0

    def __repr__(self) -> str:
        return f"Tokens(scope={self._scope!r}, authentication={self._authentication.value!r})"

    def current(self) -> "AccessToken":
        """Return a token that is valid for the next request.

        If a new token cannot be obtained, for whatever reason, the last token is returned until it expires.

        Raises:
            ServiceRefusedError: the identity gets no token.
            ServiceUnreachableError: the source of tokens cannot be reached, or fails temporarily.
        """
        with self._lock:
            now = self._clock()
            token = self._token
            if token is None or token.expires_on <= now:
                return self._fetch(None)
            if token.expires_on - now < REFRESH_BEFORE_EXPIRY_SECONDS and now >= self._pause_until:
                return self._renew_early(token)
            return token

    def renewed(self, refused: "AccessToken", claims: str) -> "AccessToken":
        """Return a token in place of a refused token, with the requested claims, and not from a cache.

        Raises:
            ServiceError: as `current`.
        """
        with self._lock:
            token = self._token
            if token is None or token is refused:  # else another thread has renewed it meanwhile
                return self._fetch(claims)
            return token

    def _renew_early(self, living: "AccessToken") -> "AccessToken":
        """Return a new token after one try, or else the still valid token, so that no caller waits for retries."""
        wait = float(PAUSE_SECONDS)
        try:
            self._token = self._ask(None)
        except ServiceRefusedError as error:
            reason = str(error)
        except TransientError as error:
            reason = f"No token for {self._scope}: {error}."
            wait = max(wait, min(error.retry_after_seconds or 0.0, self._retry.longest_retry_after_seconds))
        else:
            return self._token
        now = self._clock()
        self._pause_until = now + wait
        if living.expires_on <= now:
            return self._fetch(None)
        logger.warning("%s The last token is used as long as it lives.", reason)
        return living

    def _fetch(self, claims: str | None) -> "AccessToken":
        """Return a new token and keep it; retry after temporary failures."""

        def warn(error: RetryableError, next_try: str) -> None:
            logger.warning("No token for %s: %s. %s", self._scope, error, next_try)

        try:
            self._token = token = self._retry.call(lambda: self._ask(claims), warn, self._sleep)
        except TransientError as error:
            advice = advise_patience(self._authentication, self._host, is_answer=error.is_answer)
            raise ServiceUnreachableError(
                f"No token for {self._scope}: {error}, {self._retry.tries} times. {advice}"
            ) from error.__cause__
        return token

    def _ask(self, claims: str | None) -> "AccessToken":
        """Return a new token, by one request.

        Raises:
            TransientError: a retry may succeed.
            ServiceRefusedError: a retry would not succeed.
        """
        from azure.core.exceptions import AzureError

        options = {} if claims is None else {"claims": claims}
        with recording() as record:
            try:
                token = self._credential.get_token(self._scope, **options)
            # OSError: the token file of a workload identity; ValueError: an answer that is not JSON.
            except (AzureError, OSError, ValueError) as error:
                if record.is_in_azure and self._host is not Host.KUBERNETES:
                    self._host = Host.AZURE
                code, kind = find_code(error), type(error).__name__
                transient = find_transient(error, record)
                if transient is None and code is None and claims is None and self._is_chain_that_worked:
                    transient = TransientError(f"no way to sign in gave one, though one did before ({kind})", True)
                if transient is not None:
                    raise transient from error
                reason = f"{kind}, {code}" if code else kind
                raise ServiceRefusedError(
                    f"No token for {self._scope}: DICOM_AUTHENTICATION={self._authentication} did not work ({reason}). "
                    f"{advise(self._authentication, self._host)}"
                ) from error
        self._has_given = True
        return token

    @property
    def _is_chain_that_worked(self) -> bool:
        """True if DefaultAzureCredential, which tries identities in turn, has worked before.

        Its failures seldom show their reason.
        """
        return self._has_given and self._authentication is Authentication.DEFAULT


def read_claims(token: str) -> Mapping[str, Any] | None:
    """Return the token's claims, with the signature unchecked (the service checks it); None if it is not a JWT."""
    _, _, rest = token.partition(".")
    content = decode_object(rest.partition(".")[0])
    return None if content is None else json.loads(content)


def decode_object(text: str) -> str | None:
    """Return the JSON object that a base64url text without padding holds, as text; None if it holds none."""
    try:
        content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        return content if isinstance(json.loads(content), dict) else None
    except (binascii.Error, ValueError, RecursionError):
        return None
