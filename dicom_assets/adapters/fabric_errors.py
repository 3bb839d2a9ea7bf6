"""What a refusal of the Fabric REST API says: its own words without secrets, why it probably came, and what to do."""

import re
from http import HTTPStatus

import httpx
import msgspec

from dicom_assets.adapters.shortcuts import Shortcut

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
_HINTS = {
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
    """The body of a refusal; empty where there is none that can be read."""

    request_id: str = ""
    more_details: list[_Detail] | None = None
    is_retriable: bool | None = None

    def __str__(self) -> str:
        """Fabric's own words in one line, without what may be secret in them."""
        parts = [self, *(self.more_details or ())]
        told = "; ".join(": ".join(filter(None, (part.error_code, part.message.rstrip(". ")))) for part in parts)
        for pattern, replacement in _SECRETS:
            told = pattern.sub(replacement, told)
        told = " ".join(told.split())
        if len(told) > _LONGEST_TEXT:
            told = f"{told[:_LONGEST_TEXT]}…"
        # Only what looks like an id: it comes from a header, too.
        request = f"requestId {self.request_id}" if re.fullmatch(r"[0-9A-Fa-f-]{8,64}", self.request_id) else ""
        return ", ".join(filter(None, (told, request)))

    @property
    def says_name_is_taken(self) -> bool:
        """Whether something of the shortcut's name is there already."""
        return any(detail.error_code == _NAME_IS_TAKEN for detail in (self, *(self.more_details or ())))


def read_answer(response: httpx.Response) -> FabricAnswer:
    """The body of a refusal."""
    try:
        return msgspec.json.decode(response.content, type=FabricAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return FabricAnswer(request_id=response.headers.get("requestId", ""))


def explain(status: int, shortcut: Shortcut | None) -> str:
    """Why a request was refused, probably, and what to do.

    Args:
        status: of the answer.
        shortcut: the one that was to be written; None where shortcuts were to be read.
    """
    known = {each.value: each for each in HTTPStatus}
    if shortcut is None or status not in {400, 403, 404}:
        return _HINTS.get(known[status], _OTHER_HINT) if status in known else _OTHER_HINT
    target = shortcut.target
    # Shortcuts could be listed, so workspace and lakehouse are right: the role and the target are left.
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
