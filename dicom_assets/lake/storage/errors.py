"""Refusals of Azure storage: what each means, and what to do about it.

The native clients put the whole answer, and sometimes the request, into the text of their errors. Messages here show
only the status, the code and, where there is neither, the innermost reason: no part that can hold a key, a signature or
a token.

Source: error codes of the Blob service's REST API.
"""

import re
from enum import Enum
from typing import NamedTuple

_CODE = re.compile(r"<Code>(\w{1,80})</Code>")
_STATUS = re.compile(r"\b([45]\d\d) [A-Z][A-Za-z]+")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_URLS = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+")
_ARROWS = " \t↳"
_SHOWN_CHARACTERS = 200


class Signing(Enum):
    """Kind of credential that signs the requests to an account; the value is its name in messages."""

    IDENTITY = "the identity"
    KEY = "AZURE_STORAGE_ACCOUNT_KEY"
    SAS = "AZURE_STORAGE_SAS_TOKEN"


class Place(NamedTuple):
    """Settings and rights of the place that was to be reached, for the advice in messages."""

    role: str
    """Role that the identity needs."""
    url: str
    """Setting that names the account."""
    container: str
    """Setting that names the container."""
    settings: str
    """Names of both settings."""
    rights: str
    """Rights that a SAS token needs."""


LAKE = Place(
    role="Storage Blob Data Contributor",
    url="DICOM_STORAGE_URL",
    container="DICOM_CONTAINER_NAME",
    settings="DICOM_STORAGE_URL and DICOM_CONTAINER_NAME",
    rights="read, add, create, write, delete and list (racwdl)",
)
FILES = Place(
    role="Storage Blob Data Reader",
    url="DICOM_FILE_SYSTEM_URL",
    container="DICOM_FILE_SYSTEM_URL",
    settings="DICOM_FILE_SYSTEM_URL",
    rights="read (r)",
)
"""File system of the service itself, which is only read."""

_ROLE = (
    'Grant the identity the "{role}" role on the account or the container (Owner and '
    "Contributor do not include it), and wait up to ten minutes until it holds."
)
_SAS_RIGHTS = "AZURE_STORAGE_SAS_TOKEN lacks a right: it needs {rights} on blobs, for containers and objects."
_NOT_ACCEPTED = {
    Signing.IDENTITY: "The account does not accept the identity's token: it was issued by another tenant than the "
    "account's (check AZURE_TENANT_ID, or `az login --tenant`), or the clock of this machine is wrong.",
    Signing.KEY: "AZURE_STORAGE_ACCOUNT_KEY is no key of this account: it has a typo, was rotated, or belongs to "
    "another account. Copy it again, or use an identity and unset it.",
    Signing.SAS: "AZURE_STORAGE_SAS_TOKEN is not accepted: it has expired, is not whole, or was signed with a key that "
    "was rotated since. Make a new one, or use an identity and unset it.",
}
_EXPIRED = _NOT_ACCEPTED | {
    Signing.IDENTITY: "The identity's token has expired. Each is renewed minutes before its end, so the clock of this "
    "machine is probably slow, or whoever hands out tokens gave an old one. Set the clock right; else run this again.",
    Signing.SAS: "AZURE_STORAGE_SAS_TOKEN has expired, or begins in the future. Make a new one, or use an identity and "
    "unset it.",
}
_FORBIDDEN = {
    Signing.IDENTITY: _ROLE + " If it has it, the account's firewall keeps this machine out: allow its network or use "
    "a private endpoint.",
    Signing.KEY: "AZURE_STORAGE_ACCOUNT_KEY is wrong, the account forbids keys, or its firewall keeps this machine "
    "out.",
    Signing.SAS: "AZURE_STORAGE_SAS_TOKEN has expired or lacks a right (it needs {rights}), or the account's firewall "
    "keeps this machine out.",
}
_FIREWALL = {
    Signing.IDENTITY: "The account's firewall probably keeps this machine out: allow its network, or use a private "
    "endpoint.",
    Signing.KEY: "The account's firewall probably keeps this machine out, or the account forbids keys: allow its "
    "network, or use an identity.",
    Signing.SAS: "AZURE_STORAGE_SAS_TOKEN has expired, is not whole, or is not for this service; or the account's "
    "firewall keeps this machine out.",
}
_ADDRESS = "AZURE_STORAGE_SAS_TOKEN is not good for this machine's address or for https: make one that is."
_NO_CONTAINER = (
    "The container does not exist: create it (`az storage container create`), or set {container} to one that "
    "does. If it was deleted by mistake, restore it: soft delete keeps it for some days."
)
_BEING_DELETED = (
    "The container was deleted, and its name is not free yet. If that was a mistake, restore it (soft delete keeps it "
    "for some days); else wait a minute and create it anew, or set {container} to another."
)
_BUSY = (
    "The account is busy, or turns requests away since there are too many: try again later, with fewer runs at a time."
)

_BY_CODE: dict[str, str | dict[Signing, str]] = {
    "AuthorizationPermissionMismatch": {Signing.IDENTITY: _ROLE, Signing.KEY: _ROLE, Signing.SAS: _SAS_RIGHTS},
    "InsufficientAccountPermissions": {Signing.IDENTITY: _ROLE, Signing.KEY: _ROLE, Signing.SAS: _SAS_RIGHTS},
    "AuthorizationServiceMismatch": _SAS_RIGHTS,
    "AuthorizationResourceTypeMismatch": _SAS_RIGHTS,
    "AuthorizationSourceIPMismatch": _ADDRESS,
    "AuthorizationProtocolMismatch": _ADDRESS,
    "AuthorizationFailure": _FIREWALL,
    "AuthenticationFailed": _NOT_ACCEPTED,
    "InvalidAuthenticationInfo": _NOT_ACCEPTED,
    "NoAuthenticationInformation": _NOT_ACCEPTED,
    "KeyBasedAuthenticationNotPermitted": "The account forbids keys and what is signed with them: unset "
    "AZURE_STORAGE_ACCOUNT_KEY and AZURE_STORAGE_SAS_TOKEN, and use an identity.",
    "AccountIsDisabled": "The account is disabled: look at its subscription in the portal.",
    "PublicAccessNotPermitted": _FORBIDDEN,
    "ContainerNotFound": _NO_CONTAINER,
    "FilesystemNotFound": _NO_CONTAINER,
    "ContainerDisabled": _NO_CONTAINER,
    "ContainerBeingDeleted": _BEING_DELETED,
    "FilesystemBeingDeleted": _BEING_DELETED,
    "ServerBusy": _BUSY,
    "OperationTimedOut": _BUSY,
    "InternalError": _BUSY,
}
_BY_STATUS: dict[str, str | dict[Signing, str]] = {
    "401": _NOT_ACCEPTED,
    "403": _FORBIDDEN,
    "408": _BUSY,
    "429": _BUSY,
}
_BY_WORDS: dict[str, str] = {
    "Invalid Access Key": "AZURE_STORAGE_ACCOUNT_KEY is no key: it is not base64, so it was not copied whole. Copy it "
    "again.",
    "SAS query pair": "AZURE_STORAGE_SAS_TOKEN is no SAS token: it must be the part of the URL after `?`, whole.",
    "invalid peer certificate": "This machine does not trust the certificate of whoever answered: set SSL_CERT_FILE to "
    "the PEM file of your network's authority.",
    "InvalidCertificate": "This machine does not trust the certificate of whoever answered: set SSL_CERT_FILE to the "
    "PEM file of your network's authority.",
    "dns error": "The account's name is not known here: check {url}, and the private endpoint's DNS.",
    "Connect)": "The account cannot be reached: check {url}, the network and the proxy.",
}
_SAYS_EXPIRED = re.compile(r"The token is expired|Signature not valid in the specified time frame")
_UNSIGNED = (_NOT_ACCEPTED, _FORBIDDEN, _FIREWALL)
"""Advice for answers after which the credential may have expired."""
_FINAL_STATUSES = frozenset({"400", "401", "403", "404", "409"})
_FINAL_WORDS = frozenset({"Invalid Access Key", "SAS query pair"})
_OTHERWISE = 'Check {settings}, and that the identity has the "{role}" role on the account.'


class Refusal(NamedTuple):
    """Explanation of an error, for a message."""

    reason: str
    """Short reason, without secrets."""
    advice: str
    """Remedy, as a sentence."""
    is_final: bool
    """True if a retry cannot help."""


def explain_refusal(text: str, signing: Signing, place: Place, *, has_expired: bool = False) -> Refusal:
    """Return the meaning of a native client's error.

    Args:
        text: text of the error.
        signing: kind of credential that signed the request.
        place: settings and rights of the place that was to be reached.
        has_expired: whether the credential states an expiry that has passed; the account does not always say so.
    """
    code = next(iter(_CODE.findall(text)), None)
    status = next(iter(_STATUS.findall(text)), None)
    if code is not None or status is not None:
        is_of_server = status is not None and status.startswith("5")
        advice = _BY_CODE.get(code or "") or _BY_STATUS.get(status or "", _BUSY if is_of_server else _OTHERWISE)
        if advice in _UNSIGNED and (has_expired or _SAYS_EXPIRED.search(text)):
            advice = _EXPIRED
        # A retry has a new token, but an unchanged key or SAS token.
        may_heal = advice == _BEING_DELETED or (advice is _EXPIRED and signing is Signing.IDENTITY)
        is_final = status in _FINAL_STATUSES and not may_heal
        reason = " ".join(filter(None, (status, code)))
        template = advice if isinstance(advice, str) else advice[signing]
        return Refusal(reason, template.format(**place._asdict()), is_final)
    words = next((words for words in _BY_WORDS if words in text), None)
    template = _BY_WORDS.get(words or "", _OTHERWISE)
    return Refusal(_innermost(text), template.format(**place._asdict()), words in _FINAL_WORDS)


def _innermost(text: str) -> str:
    """Return the last lines of the chain of causes, which say most, without URLs: their queries may be signed."""
    plain = _COLOURS.sub("", text).partition("Debug source:")[0]
    lines = [line.strip(_ARROWS) for line in plain.splitlines() if line.strip(_ARROWS)]
    return _URLS.sub("…", ": ".join(lines[-2:]))[:_SHOWN_CHARACTERS].rstrip(". ")
