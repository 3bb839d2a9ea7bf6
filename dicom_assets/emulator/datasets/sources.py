"""Content for the embedded service: pydicom's bundled files, a folder, or any number of synthetic instances.

Synthetic instances are copies of real metadata: an element of a bundled file stays unchanged unless it identifies the
patient, the study, the series or the instance, or says how colours are stored: the pictures of synthetic instances are
drawn, and hold grey values or RGB.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from dicom_assets.core.tables.change_feed import DEFAULT_PARTITION
from dicom_assets.emulator.errors import InstanceExistsError, InvalidInstanceError
from dicom_assets.emulator.metadata.data_set import (
    SERIES_INSTANCE_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    Metadata,
    read_dataset,
    read_metadata,
    tolerant,
)
from dicom_assets.emulator.metadata.padding import strip_padding
from dicom_assets.emulator.store.store import Moment, Service, Stored

REFUSED: Final = (InstanceExistsError, InvalidDicomError, InvalidInstanceError)
"""Errors raised for a file that cannot be stored."""
Skip = Callable[[Path, str], object]
"""A function that is called with the path of a file that is left out, and the reason."""


def ignore(_path: Path, _reason: str) -> None:
    """Do nothing about a file that is left out."""


_REQUIRED: Final = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")

# By modality: least and most instances in a series, and most series in a study.
_SHAPES: Final = {"CT": (20, 60, 3), "MR": (10, 30, 5), "CR": (1, 3, 2), "US": (3, 12, 1), "SR": (1, 1, 1)}
_STUDIES_BY_MODALITY: Final = {"CT": 30, "MR": 25, "CR": 25, "US": 15, "SR": 5}
_TEMPLATE_ELEMENTS: Final = range(20, 121)  # files with very few or very many elements are no templates
_FAMILY_NAMES: Final = (
    "Adeyemi",
    "Costa",
    "Dubois",
    "Garcia",
    "Haddad",
    "Ivanova",
    "Jensen",
    "Kowalski",
    "Nguyen",
    "Sato",
)
_GIVEN_NAMES: Final = ("Alex", "Chris", "Dana", "Jo", "Kim", "Lee", "Noor", "Robin", "Sam", "Toni")
_FIRST_BIRTH_DATE: Final = date(1935, 1, 1)
_BIRTH_DAYS: Final = 30_000

_UIDS: Final = (STUDY_INSTANCE_UID, SERIES_INSTANCE_UID, SOP_INSTANCE_UID)
_CHARACTER_SET: Final = "00080005"
_PHOTOMETRIC_INTERPRETATION: Final = "00280004"
_UID_PADDINGS: Final = ("", "", "", "", " ", "  ")
_PADDED_VRS: Final = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UI"})
_PADDINGS: Final = ("\0", "\0\0", " ", " \0")
_SHARE_PADDED: Final = 0.25


@dataclass(frozen=True)
class DicomFile:
    """A DICOM file with the UIDs of its instance; its data set is read when it is needed."""

    path: Path
    study: str
    series: str
    sop_instance: str

    @property
    def key(self) -> tuple[str, str, str]:
        """UIDs of the study, the series and the instance."""
        return self.study, self.series, self.sop_instance

    def dataset(self) -> Dataset:
        """Read and return the file's data set."""
        return read_dataset(self.path.read_bytes())

    def store(self, service: Service, *, partition: str = DEFAULT_PARTITION, at: Moment | None = None) -> Stored:
        """Store the file, byte for byte, with `Service.store`.

        Raises:
            One of REFUSED: The service refuses the file, or the file cannot be read.
        """
        try:
            content = self.path.read_bytes()
        except OSError:
            raise InvalidDicomError("The file cannot be read.") from None
        return service.store(read_dataset(content), partition=partition, at=at, content=content)


def describe_refusal(error: Exception) -> str:
    """Return a short reason why a file was not stored, from an error of REFUSED."""
    if isinstance(error, InstanceExistsError):
        return "already stored"
    return "no DICOM file that can be read" if isinstance(error, InvalidDicomError) else "refused by the service"


def folder_files(directory: Path, *, skip: Skip = ignore, bare: bool = False) -> Iterator[DicomFile]:
    """Yield the DICOM files in a folder that the service would accept, one per instance, in the order of their paths.

    Args:
        directory: Folder to search, with its subfolders.
        skip: Called with each file that is left out, and the reason.
        bare: Whether to also accept files without preamble and file meta information.
    """
    seen = set()
    for path in sorted(directory.rglob("*")):
        if not path.is_file():
            continue
        file = _read_file(path, bare)
        if isinstance(file, str):
            skip(path, file)
        elif file.key in seen:
            skip(path, "same instance as another file")
        else:
            seen.add(file.key)
            yield file


def _read_file(path: Path, bare: bool) -> DicomFile | str:
    """Return the file's UIDs, or the reason why the service would refuse the file."""
    try:
        dataset = read_dataset(path, bare=bare, stop_before_pixels=True, specific_tags=[*_REQUIRED, "PatientID"])
        with tolerant():
            uids = [strip_padding(str(dataset.get(keyword) or "")) for keyword in _REQUIRED]
    except Exception:  # pydicom raises anything on values of broken files
        return "no DICOM file"
    if not all(uids) or "PatientID" not in dataset:
        return "no SOP class, UIDs or patient ID"
    return DicomFile(path, *uids[:3])


def bundled_files(skip: Skip = ignore) -> Iterator[DicomFile]:
    """Return an iterator over the DICOM files bundled with pydicom, as `folder_files` does. Nothing is downloaded."""
    return folder_files(Path(str(resources.files("pydicom") / "data" / "test_files")), skip=skip)


def synthesize(count: int, *, seed: int = 0, day: date = date(2026, 3, 1)) -> Iterator[Metadata]:
    """Yield metadata of synthetic instances, study by study; equal arguments produce equal metadata.

    Args:
        count: Number of instances.
        seed: Seed that fixes every random choice.
        day: Date of the studies.
    """
    rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
    while count > 0:
        for metadata in build_study(rng, day):
            if count > 0:
                count -= 1
                yield metadata


def build_study(rng: random.Random, day: date) -> Iterator[Metadata]:
    """Yield metadata of the instances of one synthetic study, series by series.

    Args:
        rng: Source of the random choices.
        day: Date of the study.
    """
    modality = rng.choices(list(_STUDIES_BY_MODALITY), list(_STUDIES_BY_MODALITY.values()))[0]
    fewest, most, most_series = _SHAPES[modality]
    born = _FIRST_BIRTH_DATE + timedelta(days=rng.randrange(_BIRTH_DAYS))
    study = {
        "0020000D": _element("UI", _uid(rng)),
        "00080020": _element("DA", f"{day:%Y%m%d}"),
        "00080030": _element("TM", f"{rng.randrange(24):02d}{rng.randrange(60):02d}{rng.randrange(60):02d}"),
        "00080050": _element("SH", f"A{rng.randrange(10**8):08d}"),
        "00080090": _element("PN", {"Alphabetic": f"{rng.choice(_FAMILY_NAMES)}^Dr"}),
        "00100010": _element("PN", {"Alphabetic": f"{rng.choice(_FAMILY_NAMES)}^{rng.choice(_GIVEN_NAMES)}"}),
        "00100020": _element("LO", f"P{rng.randrange(10**6):06d}"),
        "00100030": _element("DA", f"{born:%Y%m%d}"),
        "00100040": _element("CS", rng.choice("FMO")),
    }
    for series_number in range(1, rng.randint(1, most_series) + 1):
        series = {"0020000E": _element("UI", _uid(rng)), "00200011": _element("IS", series_number)}
        template = {**rng.choice(_templates()[modality]), **study, **series}
        for instance_number in range(1, rng.randint(fewest, most) + 1):
            template["00080018"] = _element("UI", _uid(rng))
            template["00200013"] = _element("IS", instance_number)
            yield dict(sorted(template.items()))


def pad_uid(uid: str, rng: random.Random) -> str:
    """Return a UID, in one of three cases with trailing blanks."""
    return uid + rng.choice(_UID_PADDINGS)


def pad_metadata(metadata: Metadata, rng: random.Random) -> Metadata:
    """Return metadata in which some UIDs of the instance, and some values, are padded with blanks and NULs.

    Args:
        metadata: Metadata of one instance; it is not changed.
        rng: Source of the random choices; other choices give other forms of one UID.
    """
    padded = dict(metadata)
    for tag, element in metadata.items():
        if tag in _UIDS:
            padded[tag] = {**element, "Value": [pad_uid(element["Value"][0], rng)]}
        elif _can_be_padded(tag, element) and rng.random() < _SHARE_PADDED:
            *values, last = element["Value"]
            padding = " " if element["vr"] == "UI" else rng.choice(_PADDINGS)
            padded[tag] = {**element, "Value": [*values, _pad_value(last, padding)]}
    return padded


def _can_be_padded(tag: str, element: dict[str, Any]) -> bool:
    return element["vr"] in _PADDED_VRS and tag != _CHARACTER_SET and bool(element.get("Value"))


def _pad_value(value: Any, padding: str) -> Any:
    if isinstance(value, dict):
        return {component: text + padding for component, text in value.items()}
    return f"{'' if value is None else value}{padding}"


@cache
def _templates() -> dict[str, list[Metadata]]:
    """Return real metadata, from bundled files, by modality."""
    templates: dict[str, list[Metadata]] = {modality: [] for modality in _SHAPES}
    for dataset in (file.dataset() for file in bundled_files()):
        metadata = read_metadata(dataset).metadata
        fitting = templates.get(dataset.get("Modality", ""))
        # Public elements only: every study would repeat the values of private elements.
        public = {tag: element for tag, element in metadata.items() if int(tag[:4], 16) % 2 == 0}
        if _PHOTOMETRIC_INTERPRETATION in public and not dataset.PhotometricInterpretation.startswith("MONOCHROME"):
            stored_as = "RGB" if dataset.SamplesPerPixel > 1 else "MONOCHROME2"
            public[_PHOTOMETRIC_INTERPRETATION] = _element("CS", stored_as)
        if fitting is not None and len(public) in _TEMPLATE_ELEMENTS:
            fitting.append(public)
    return templates


def _element(vr: str, value: Any) -> dict[str, Any]:
    return {"vr": vr, "Value": [value]}


def _uid(rng: random.Random) -> str:
    """Return a UID derived from a random UUID, as DICOM PS3.5 Annex B.2 allows."""
    return f"2.25.{rng.getrandbits(122)}"
