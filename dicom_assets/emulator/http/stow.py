"""STOW-RS: the DICOM files in a request, and the response with the result for each.

Source: DICOM PS3.18 §10.5 and Annex I; the public DICOM server's conformance statement (v2) and reason codes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from typing import Any, Final
from urllib.parse import quote

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from starlette.exceptions import HTTPException

from dicom_assets.emulator.errors import InstanceExistsError, InvalidInstanceError
from dicom_assets.emulator.metadata.data_set import (
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    Metadata,
    first_value,
    read_dataset,
    read_metadata,
)
from dicom_assets.emulator.store.store import Service, Stored

PROCESSING_FAILURE: Final = 272
VALIDATION_FAILURE: Final = 43264
ALREADY_EXISTS: Final = 45070
VALIDATION_WARNINGS: Final = 1


def split_parts(content_type: str, body: bytes) -> list[bytes]:
    """Return the DICOM files in a request's body.

    Raises:
        HTTPException: The service does not accept the content type of the request or of a part (415), or the body does
            not have the parts that its content type announces (400).
    """
    header = Message()
    header["Content-Type"] = content_type
    media_type = header.get_content_type() if content_type else ""
    if media_type == "application/dicom":
        return [body] if body else []
    if media_type != "multipart/related" or str(header.get_param("type", "application/dicom")) != "application/dicom":
        raise HTTPException(415, 'Send multipart/related; type="application/dicom", or application/dicom.')
    boundary = header.get_boundary()
    if not boundary:
        raise HTTPException(400, "The multipart content type has no boundary.")
    return list(_parts(body, boundary.encode()))


def _parts(body: bytes, boundary: bytes) -> Iterator[bytes]:
    if not body.strip():
        return
    sections = (b"\r\n" + body).split(b"\r\n--" + boundary)
    if len(sections) == 1 or not sections[-1].startswith(b"--"):
        raise HTTPException(400, "The body does not end with the closing boundary that its content type announces.")
    for section in sections[1:-1]:
        head, separator, content = section.partition(b"\r\n\r\n")
        if not separator:
            raise HTTPException(400, "A part of the body has no content.")
        header = message_from_bytes(head.lstrip())
        if "Content-Type" not in header or header.get_content_type() != "application/dicom":
            raise HTTPException(415, "Every part must be of type application/dicom.")
        yield content


@dataclass
class StoreResponse:
    """Response to a store request, built file by file."""

    studies_url: str
    """URL of the partition's studies, from which retrieve URLs are made."""
    study: str | None
    """Study instance UID in the request's path; None where the path has none."""
    referenced: list[Metadata] = field(default_factory=list)
    failed: list[Metadata] = field(default_factory=list)

    @property
    def status(self) -> int:
        """HTTP status: 200 if all files were stored; 202 if some were, or with warnings; 409 if none was."""
        if not self.referenced:
            return 409
        return 202 if self.failed or any("00081196" in item for item in self.referenced) else 200

    @property
    def dataset(self) -> Metadata:
        """Data set of the response."""
        dataset: Metadata = {}
        if self.referenced and self.study is not None:
            dataset["00081190"] = _element("UR", f"{self.studies_url}/{quote(self.study)}")
        if self.failed:
            dataset["00081198"] = _element("SQ", *self.failed)
        if self.referenced:
            dataset["00081199"] = _element("SQ", *self.referenced)
        return dataset

    def add_stored(self, stored: Stored) -> None:
        """Add an instance that was stored."""
        study, series, sop_instance = map(quote, (stored.study, stored.series, stored.sop_instance))
        url = f"{self.studies_url}/{study}/series/{series}/instances/{sop_instance}"
        item = {
            "00081150": _element("UI", stored.sop_class),
            "00081155": _element("UI", stored.sop_instance),
            "00081190": _element("UR", url),
        }
        if stored.dropped:
            item["00081196"] = _element("US", VALIDATION_WARNINGS)
            item["00741048"] = comments(f"DICOM100: {tag} - The value does not fit its type." for tag in stored.dropped)
        self.referenced.append(item)

    def add_failed(self, reason: int, metadata: Metadata, comment: str | None = None) -> None:
        """Add a file that was refused.

        Args:
            reason: Code of the failure.
            metadata: Metadata with the file's UIDs, as far as known.
            comment: Text that explains the failure.
        """
        item = {
            tag: _element("UI", value)
            for tag, source in (("00081150", SOP_CLASS_UID), ("00081155", SOP_INSTANCE_UID))
            if (value := first_value(metadata, source))
        }
        item["00081197"] = _element("US", reason)
        if comment is not None:
            item["00741048"] = comments([f"DICOM100: {comment}"])
        self.failed.append(item)


def store_parts(service: Service, parts: list[bytes], partition: str, response: StoreResponse) -> None:
    """Store every file that can be stored, and add the result for each to the response."""
    for content in parts:
        try:
            dataset = read_dataset(content)
        except InvalidDicomError:
            response.add_failed(PROCESSING_FAILURE, {})
        else:
            _store_part(service, dataset, content, partition, response)


def _store_part(service: Service, dataset: Dataset, content: bytes, partition: str, response: StoreResponse) -> None:
    uids = Dataset()
    for tag in (SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID):
        if tag in dataset:
            uids[tag] = dataset.get_item(tag)
    metadata = read_metadata(uids).metadata
    study = first_value(metadata, STUDY_INSTANCE_UID)
    if response.study is not None and study and study != response.study.rstrip():
        comment = "The study instance UID is not the one in the request's path."
        response.add_failed(VALIDATION_FAILURE, metadata, comment)
        return
    try:
        response.add_stored(service.store(dataset, partition=partition, content=content))
    except InvalidInstanceError as error:
        response.add_failed(VALIDATION_FAILURE, metadata, str(error))
    except InstanceExistsError:
        response.add_failed(ALREADY_EXISTS, metadata)


def comments(texts: Any) -> dict[str, Any]:
    """Return a Failed Attributes Sequence (0074,1048) with error comments."""
    return _element("SQ", *({"00000902": _element("LO", text)} for text in texts))


def _element(vr: str, *values: Any) -> dict[str, Any]:
    return {"vr": vr, "Value": list(values)}
