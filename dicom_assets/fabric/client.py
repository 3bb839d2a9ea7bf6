"""Shortcuts of a Fabric lakehouse: list them, compare them with the wanted shortcuts, and write the ones that differ.

A shortcut is written under a conflict policy that fits its listed state: a request for an absent shortcut creates it or
fails, and a request for an existing shortcut overwrites it or fails. So a request may be retried, and a shortcut that
another writer made meanwhile is not overwritten unseen.

Source: "OneLake Shortcuts" in Microsoft's description of the Fabric REST API,
https://github.com/microsoft/fabric-rest-api-specs. Not in this source, but seen by other users of the service: paths
begin with a slash in the list, and without a slash in other answers; a taken name answers 409, whether a shortcut or a
table has the name.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from logging import getLogger
from typing import Literal, TypeVar
from urllib.parse import quote, unquote

import httpx
import msgspec

from dicom_assets.config import rules
from dicom_assets.core.errors import FabricError
from dicom_assets.fabric.errors import explain, read_answer
from dicom_assets.fabric.shortcuts import ExistingTarget, Outcome, Shortcut, ShortcutChange, Target, plan_change
from dicom_assets.network.client import open_http_client
from dicom_assets.network.retries import RetryableError, RetryPolicy, is_retryable, parse_retry_after

logger = getLogger(__name__)

T = TypeVar("T")


class _Storage(msgspec.Struct, rename="camel"):
    location: str = ""
    subpath: str = ""
    connection_id: str = ""


class _Target(msgspec.Struct, rename="camel"):
    type: str = ""
    adls_gen2: _Storage | None = None

    def parse(self) -> ExistingTarget:
        storage = self.adls_gen2
        target = Target(storage.location, storage.subpath, storage.connection_id) if storage else None
        return ExistingTarget(self.type or "unknown", target)


class _Shortcut(msgspec.Struct):
    path: str
    name: str
    target: _Target


class _Page(msgspec.Struct, rename="camel"):
    value: list[_Shortcut]
    continuation_token: str | None = None


class _RefusedError(FabricError):
    """A refusal that a retry would not change."""

    def __init__(self, message: str, *, answer: str, is_absent: bool, is_conflict: bool) -> None:
        super().__init__(message)
        self.answer = answer
        self.is_absent = is_absent
        self.is_conflict = is_conflict


class Lakehouse:
    """The shortcuts of one lakehouse, over HTTP.

    Args:
        workspace_id: ID of the lakehouse's workspace.
        lakehouse_id: ID of the lakehouse.
        auth: adds a token to every request; None sends no token.
        base_url: URL of the Fabric REST API, without `/v1`.
        timeout_seconds: seconds to connect, and seconds for each read. Fabric checks a shortcut's target before it
            answers.
        retry: when to send a request again; None for the default policy.
        clock: returns seconds since 1970, to evaluate a `Retry-After` that is a date.
    """

    def __init__(
        self,
        workspace_id: str,
        lakehouse_id: str,
        *,
        auth: httpx.Auth | None = None,
        base_url: str = rules.FABRIC_URL,
        timeout_seconds: float = 60,
        retry: RetryPolicy | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = open_http_client(base_url, auth=auth, timeout=timeout_seconds)
        self._path = f"/v1/workspaces/{workspace_id}/items/{lakehouse_id}/shortcuts"
        self._retry = retry or RetryPolicy()
        self._clock = clock

    def __enter__(self) -> "Lakehouse":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def fetch_all(self) -> dict[str, ExistingTarget]:
        """Return all shortcuts by path.

        Raises:
            FabricError: Fabric refuses, cannot be reached, or gives an unknown answer.
        """
        found: dict[str, ExistingTarget] = {}
        token: str | None = None
        seen: set[str | None] = {None}
        while True:
            content = self._send("GET", self._path, params={"continuationToken": token} if token else None)
            page = _parse(content, _Page, "the list of shortcuts")
            found.update({f"{each.path.strip('/')}/{each.name}": each.target.parse() for each in page.value})
            # Fabric gives the token URL-encoded.
            token = unquote(page.continuation_token) if page.continuation_token else None
            if token is None:
                return found
            if token in seen:
                raise FabricError(
                    "The list of shortcuts does not end: Fabric gave the same continuationToken twice. Try again later."
                )
            seen.add(token)

    def fetch(self, path: str) -> ExistingTarget | None:
        """Return the type and target of the shortcut at the path; None if no shortcut is there.

        Raises:
            FabricError: Fabric refuses, cannot be reached, or gives an unknown answer.
        """
        try:
            content = self._send("GET", f"{self._path}/{quote(path)}")
        except _RefusedError as error:
            if error.is_absent:
                return None
            raise
        return _parse(content, _Shortcut, "a shortcut").target.parse()

    def write(self, shortcut: Shortcut, policy: Literal["Abort", "OverwriteOnly"]) -> None:
        """Create the shortcut (`Abort`: fail if one exists) or overwrite it (`OverwriteOnly`).

        Raises:
            FabricError: Fabric refuses, or cannot be reached; or another item has the name.
        """
        target = shortcut.target
        body = {
            "path": shortcut.folder,
            "name": shortcut.name,
            "target": {
                "adlsGen2": {
                    "location": target.location,
                    "subpath": target.subpath,
                    "connectionId": target.connection_id,
                }
            },
        }
        params = {"shortcutConflictPolicy": policy}
        try:
            _parse(self._send("POST", self._path, params=params, body=body, shortcut=shortcut), _Shortcut, "a shortcut")
        except _RefusedError as error:
            if not error.is_conflict:
                raise
            self._settle_conflict(shortcut, error)

    def _settle_conflict(self, shortcut: Shortcut, error: _RefusedError) -> None:
        """Return if the shortcut is as wanted, since an earlier try succeeded and only its answer was lost.

        Raises:
            FabricError: the shortcut is not as wanted.
        """
        found = self.fetch(shortcut.path)
        if found is None:
            raise FabricError(
                f"{shortcut.path} was not written: something that is no shortcut, probably a table or a folder, has "
                "that name in the lakehouse. Rename or delete it there, or choose another name for the shortcut. "
                f"Fabric's words: {error.answer}."
            ) from error
        if plan_change(shortcut, found, replace=False) is not ShortcutChange.NOTHING:
            raise FabricError(
                f"{shortcut.path} was not written: a shortcut of that name points to {found}, and came meanwhile or is "
                f"still changing. Run this again to compare the two. Fabric's words: {error.answer}."
            ) from error

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        shortcut: Shortcut | None = None,
    ) -> bytes:
        def warn(error: RetryableError, next_try: str) -> None:
            logger.warning("Fabric request failed: %s for %s. %s", error, self._build_url(path), next_try)

        try:
            return self._retry.call(lambda: self._send_once(method, path, params, body, shortcut), warn)
        except RetryableError as error:
            raise FabricError(
                f"Fabric request failed: {error} for {self._build_url(path)}, {self._retry.tries} times. Fabric is "
                "busy, or cannot be reached: check the network, the proxy and DICOM_FABRIC_URL, or try again later."
            ) from error.__cause__

    def _send_once(
        self, method: str, path: str, params: Mapping[str, str] | None, body: object, shortcut: Shortcut | None
    ) -> bytes:
        try:
            response = self._client.request(method, path, params=params, json=body)
        except httpx.RequestError as error:
            raise RetryableError(f"no answer ({type(error).__name__})") from error
        answer, status = read_answer(response), response.status_code
        summary = f"{status} ({answer})" if str(answer) else str(status)
        if is_retryable(response) or (response.is_client_error and answer.is_retriable):
            raise RetryableError(summary, parse_retry_after(response.headers, self._clock))
        if response.is_redirect or "html" in response.headers.get("Content-Type", "").lower():
            raise FabricError(
                f"Fabric request failed: {status} without JSON for {self._build_url(path)}. Something else than the "
                "Fabric REST API answers there: check DICOM_FABRIC_URL and the proxy."
            )
        if response.is_success:
            return response.content
        raise _RefusedError(
            f"Fabric request failed: {summary} for {self._build_url(path)}. {explain(status, shortcut)}",
            answer=summary,
            is_absent=status == httpx.codes.NOT_FOUND,
            is_conflict=status == httpx.codes.CONFLICT or answer.says_name_is_taken,
        )

    def _build_url(self, path: str) -> str:
        return f"{str(self._client.base_url).rstrip('/')}{path}"


def write_shortcuts(lakehouse: Lakehouse, wanted: Iterable[Shortcut], *, replace: bool, dry_run: bool) -> list[Outcome]:
    """Create wanted shortcuts that are absent, and replace ones that differ; a failure does not stop the others.

    Args:
        lakehouse: the lakehouse of the shortcuts.
        wanted: the wanted shortcuts.
        replace: whether shortcuts with another target are changed.
        dry_run: whether to report the changes without making them.

    Returns:
        The outcome of each wanted shortcut, in order.

    Raises:
        FabricError: the lakehouse's shortcuts cannot be listed.
    """
    existing = lakehouse.fetch_all()
    outcomes = []
    for shortcut in wanted:
        found = existing.get(shortcut.path)
        change = plan_change(shortcut, found, replace=replace)
        problem = None
        if change is ShortcutChange.REFUSE:
            problem = (
                f"{shortcut.path} points to {found}, not to {shortcut.target.place}, so it was left alone. Choose "
                "another name, or allow it to be replaced (--replace): that changes the shortcut, never the data."
            )
        elif change is not ShortcutChange.NOTHING and not dry_run:
            try:
                lakehouse.write(shortcut, "Abort" if change is ShortcutChange.CREATE else "OverwriteOnly")
            except FabricError as error:
                problem = str(error)
        outcomes.append(Outcome(shortcut, change, problem))
    return outcomes


def _parse(content: bytes, type_: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(content, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FabricError(
            f"Fabric answered something else than {what} ({type(error).__name__}). "
            "Check DICOM_FABRIC_URL and the proxy."
        ) from None
