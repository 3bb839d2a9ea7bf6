"""Refusals of the Fabric REST API: their text without secrets, the probable cause, and advice."""

import re
from http import HTTPStatus

import httpx
import msgspec

from dicom_assets.fabric.shortcuts import Shortcut

_NAME_IS_TAKEN = "ShorcutsOperationNotAllowed"  # the service's spelling
_SECRETS = (
    (re.compile(r"\?\S*"), "?…"),  # signatures travel in queries
    (re.compile(r"\beyJ[\w.-]+"), "…"),  # tokens
    (re.compile(r"(?i)\b(sig|\w*key|\w*secret|password|\w*token)\s*[=:]\s*\S+"), r"\1=…"),
)
_LONGEST_TEXT = 400
_ROLE = "a role in the workspace that may write (Contributor, Member or Admin)"
_FOR_APPLICATIONS = (
    'For an application or a managed identity the tenant setting "Service principals can use Fabric APIs" must be on.'
)
_HINTS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "Fabric did not accept the token: check DICOM_AUTHENTICATION, DICOM_FABRIC_TOKEN_SCOPE, "
    "and that the identity belongs to the workspace's tenant (AZURE_TENANT_ID, or az login --tenant). "
    f"{_FOR_APPLICATIONS}",
    HTTPStatus.FORBIDDEN: f"The identity lacks {_ROLE}: grant it one under Manage access. {_FOR_APPLICATIONS}",
    HTTPStatus.NOT_FOUND: "There is no such lakehouse in that workspace, or none that this identity may see: check "
    "DICOM_FABRIC_WORKSPACE_ID and DICOM_FABRIC_LAKEHOUSE_ID, which stand in the lakehouse's address "
    "(…/groups/WORKSPACE/lakehouses/LAKEHOUSE), and that the identity belongs to the workspace's tenant "
    "(AZURE_TENANT_ID, or az login --tenant).",
}
_OTHER_HINT = "Look the error code up in the documentation of the Fabric REST API; Microsoft's support needs requestId."


class _Detail(msgspec.Struct, rename="camel"):
    error_code: str = ""
    message: str = ""


class FabricAnswer(_Detail, rename="camel"):
    """Body of a refusal; empty if the body cannot be read."""

    request_id: str = ""
    more_details: list[_Detail] | None = None
    is_retriable: bool | None = None

    def __str__(self) -> str:
        """Return Fabric's text in one line, without possible secrets."""
        parts = [self, *(self.more_details or ())]
        text = "; ".join(": ".join(filter(None, (part.error_code, part.message.rstrip(". ")))) for part in parts)
        for pattern, replacement in _SECRETS:
            text = pattern.sub(replacement, text)
        text = " ".join(text.split())
        if len(text) > _LONGEST_TEXT:
            text = f"{text[:_LONGEST_TEXT]}…"
        # Only text in the form of an ID is shown, since the value may come from a header.
        request = f"requestId {self.request_id}" if re.fullmatch(r"[0-9A-Fa-f-]{8,64}", self.request_id) else ""
        return ", ".join(filter(None, (text, request)))

    @property
    def says_name_is_taken(self) -> bool:
        """True if another item has the shortcut's name already."""
        return any(detail.error_code == _NAME_IS_TAKEN for detail in (self, *(self.more_details or ())))


def read_answer(response: httpx.Response) -> FabricAnswer:
    """Return the body of a refusal."""
    try:
        return msgspec.json.decode(response.content, type=FabricAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return FabricAnswer(request_id=response.headers.get("requestId", ""))


def explain(status: int, shortcut: Shortcut | None) -> str:
    """Return the probable cause of a refusal, and advice.

    Args:
        status: HTTP status of the answer.
        shortcut: the shortcut that the request should write; None if it should read shortcuts.
    """
    if shortcut is None or status not in {400, 403, 404}:
        return _HINTS.get(status, _OTHER_HINT)
    target = shortcut.target
    # Shortcuts could be listed, so workspace and lakehouse are right. The role and the target remain as causes.
    causes = [
        f"this identity has {_ROLE}",
        f"the connection {target.connection_id} exists (Manage connections and gateways → its settings show the id), "
        f"is one for {target.location}, and is shared with this identity",
        f'the identity inside the connection has the "Storage Blob Data Reader" role on {target.container}, and the '
        "account's firewall lets Fabric in",
        f"the folder {target.subpath} exists: a table does once it was materialised",
    ]
    return (
        f"{shortcut.path} was not written. Check that: "
        + " ".join(f"({number}) {cause};" for number, cause in enumerate(causes, 1)).rstrip(";")
        + "."
    )
