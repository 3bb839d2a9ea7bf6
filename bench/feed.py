"""A seeded change feed of any size, rendered once into a cache: what the benchmark's service serves.

Studies arrive instance by instance, some are corrected as a whole, some series are deleted. An entry says what a reader
is told who reads each hour once it has closed: a Create that was corrected within its hour is `Replaced` and brings the
corrected metadata, one that was deleted is `Deleted` and brings none.

Everything about an instance follows from its number: its UIDs, its study, its values. So a lake can be built that has
seen any number of instances before the feed begins, without a feed (`bench/growth.py`).
"""

import hashlib
import json
import random
import shutil
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from pathlib import Path

CACHE = Path(__file__).parent / ".cache"
START = datetime(2025, 3, 1, tzinfo=UTC)
FORMAT = 3
"""Of the cached files; another number renders all feeds anew."""

_SERIES_PER_STUDY = 2
_CT_SHARE = 0.75
_RECENT_HOURS = 5
_SIZES = range(3_000, 9_000)  # of a template's JSON
_FAMILIES = ("Adeyemi", "Costa", "Dubois", "Garcia", "Haddad", "Ivanova", "Jensen", "Kowalski", "Nguyen", "Sato")
_PARTS = ("HEAD", "CHEST", "ABDOMEN", "PELVIS", "SPINE", "KNEE")
_SLOTS = {
    "sop": ("00080018", "UI"),
    "number": ("00200013", "IS"),
    "location": ("00201041", "DS"),
    "position": ("00200032", "DS"),
    "centre": ("00281050", "DS"),
    "width": ("00281051", "DS"),
    "current": ("00181151", "IS"),
}
"""Tag and VR of what differs from instance to instance."""
_BRIEF = ("00080016", "00080060", "00080070")
"""SOP class, modality and manufacturer: what brief metadata takes from a file."""


@dataclass(frozen=True)
class Spec:
    """What fixes a feed."""

    changes: int = 20_000
    hours: int = 1
    seed: int = 1
    update_share: float = 0.10
    delete_share: float = 0.05
    study_size: int = 80
    history: int = 0
    """Instances that exist before the feed begins, a multiple of `study_size`."""
    scattered: bool = False
    """Updates and deletes of single instances all over the history, instead of whole studies of the last hours."""
    brief: bool = False
    """About 1 KB of metadata, most of it wanted in the tables, instead of all that a scanner writes."""

    @property
    def folder(self) -> Path:
        """Where the rendered feed lies."""
        digest = hashlib.sha256(json.dumps([FORMAT, asdict(self)]).encode()).hexdigest()[:12]
        return CACHE / "feeds" / f"{self.changes}x{self.hours}h-{digest}"


@dataclass(frozen=True)
class Feed:
    """A rendered feed."""

    folder: Path
    changes: int
    size_bytes: int
    start: str
    end: str
    instances: int
    """Live instances at the end, the history's included; likewise below."""
    series: int
    studies: int
    digest: str
    """Of the live instances that the feed has touched, with their files' paths: see `digest_of`."""


def open_feed(spec: Spec) -> Feed:
    """The feed, rendered if it is not in the cache."""
    description = spec.folder / "feed.json"
    if not description.exists():
        partial = spec.folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _Renderer(spec, partial).render()
        shutil.rmtree(spec.folder, ignore_errors=True)
        partial.rename(spec.folder)
    return Feed(folder=spec.folder, **json.loads(description.read_text()))


def uid(kind: int, number: int) -> str:
    """A UID that looks like a scanner's, one per kind and number."""
    return f"1.3.12.2.1107.5.{kind}.{(number * 0x9E3779B97F4A7C15 + 0x1234567) % 2**63}"


def study_uid(study: int) -> str:
    return uid(1, study)


def series_uid(series: int) -> str:
    return uid(2, series)


def instance_uid(number: int) -> str:
    return uid(3, number)


def file_path(number: int, version: int) -> str:
    return f"AHDS/bench/dicom/bench/Microsoft.Default/{number:x}_{version}.dcm"


def digest_of(pairs: Iterator[tuple[str, str]]) -> str:
    """A digest of pairs of SOP instance UID and file path that does not depend on their order."""
    total = 0
    for sop_instance, path in pairs:
        total += int.from_bytes(hashlib.blake2b(f"{sop_instance} {path}".encode(), digest_size=8).digest())
    return f"{total % 2**64:016x}"


def study_values(study: int) -> dict[str, tuple[str, object]]:
    """VR and value of the study's attributes, by tag."""
    rng = random.Random(study)
    name = f"{rng.choice(_FAMILIES)}^{rng.choice(_FAMILIES)}"
    return {
        "00080020": ("DA", f"2026{rng.randrange(1, 13):02d}{rng.randrange(1, 29):02d}"),
        "00080030": ("TM", f"{rng.randrange(24):02d}{rng.randrange(60):02d}{rng.randrange(60):02d}"),
        "00080050": ("SH", f"A{rng.randrange(10**8):08d}"),
        "00080090": ("PN", {"Alphabetic": f"{rng.choice(_FAMILIES)}^Dr"}),
        "00081030": ("LO", f"{rng.choice(_PARTS)} {rng.randrange(1000)}"),
        "00100010": ("PN", {"Alphabetic": name}),
        "00100020": ("LO", f"P{rng.randrange(10**7):07d}"),
        "00100030": ("DA", f"{rng.randrange(1935, 2020)}{rng.randrange(1, 13):02d}{rng.randrange(1, 29):02d}"),
        "00100040": ("CS", rng.choice("FMO")),
    }


def series_values(series: int) -> dict[str, tuple[str, object]]:
    """The same of the series."""
    rng = random.Random(-series - 1)
    return {
        "0008103E": ("LO", f"{rng.choice(_PARTS)} {rng.randrange(1, 9)}.0 B{rng.randrange(10, 80)}s"),
        "00180015": ("CS", rng.choice(_PARTS)),
        "00200011": ("IS", 1 + series % _SERIES_PER_STUDY),
    }


def is_ct(study: int) -> bool:
    return random.Random(study * 31 + 7).random() < _CT_SHARE


@dataclass
class _Renderer:
    spec: Spec
    folder: Path
    dead: set[int] = field(default_factory=set)
    versions: dict[int, int] = field(default_factory=dict)
    """Of instances that were corrected; the others have version 1."""
    touched: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.spec.seed)
        self.created = self.spec.history

    def render(self) -> None:
        """Writes entries.bin (the entries' JSON, a comma after each), index.bin and feed.json."""
        spec, index, size = self.spec, array("q"), 0
        sequence = spec.history
        with (self.folder / "entries.bin").open("wb") as out:
            for hour in range(spec.hours):
                count = spec.changes * (hour + 1) // spec.hours - spec.changes * hour // spec.hours
                events = self._plan_hour(count)
                last = {number: (place, action) for place, (action, number) in enumerate(events)}
                for place, (action, number) in enumerate(events):
                    sequence += 1
                    microseconds = 3_600_000_000 * place // count
                    moment = START + timedelta(hours=hour, microseconds=microseconds)
                    last_place, last_action = last[number]
                    gone = last_action == "Delete"
                    state = "Deleted" if gone else "Current" if place == last_place else "Replaced"
                    envelope = self._envelope(sequence, action, state, moment, number, gone=gone)
                    metadata = b"" if gone else b',"metadata":' + self._metadata(number)
                    entry = envelope + metadata + b"},"
                    out.write(entry)
                    index.extend((size, size + len(envelope), int(moment.timestamp()) * 10**6 + moment.microsecond))
                    size += len(entry)
        index.append(size)
        with (self.folder / "index.bin").open("wb") as out:
            index.tofile(out)
        (self.folder / "feed.json").write_text(json.dumps(self._describe(size), indent=1))

    def _plan_hour(self, count: int) -> list[tuple[str, int]]:
        """The hour's changes in order: blocks of a study that arrives, a study corrected, a series deleted."""
        spec = self.spec
        left = {"Update": round(count * spec.update_share), "Delete": round(count * spec.delete_share)}
        left["Create"] = count - sum(left.values())
        events: list[tuple[str, int]] = []
        while any(left.values()):
            action = self.rng.choices(list(left), list(left.values()))[0]
            numbers = [] if action == "Create" else self._existing(whole_study=action == "Update")
            if not numbers:
                if action != "Create" and not left["Create"]:  # nothing is left to be corrected or deleted
                    left["Create"], left[action] = left[action], 0
                action, numbers = "Create", self._arriving()
            numbers = numbers[: left[action]]
            left[action] -= len(numbers)
            events.extend((action, number) for number in numbers)
            self._apply(action, numbers)
        return events

    def _arriving(self) -> list[int]:
        end = (self.created // self.spec.study_size + 1) * self.spec.study_size
        return list(range(self.created, end))

    def _existing(self, *, whole_study: bool) -> list[int]:
        spec = self.spec
        per_hour = max(1, spec.changes // spec.hours)
        least = 0 if spec.scattered else max(0, self.created - _RECENT_HOURS * per_hour)
        size = spec.study_size if whole_study else spec.study_size // _SERIES_PER_STUDY
        for _ in range(100 if self.created else 0):
            number = self.rng.randrange(least, self.created)
            first = number // size * size
            numbers = [number] if spec.scattered else range(first, min(first + size, self.created))
            if live := [number for number in numbers if number not in self.dead]:
                return live
        return []

    def _apply(self, action: str, numbers: list[int]) -> None:
        self.touched.update(numbers)
        if action == "Create":
            self.created += len(numbers)
        elif action == "Delete":
            self.dead.update(numbers)
        else:
            self.versions.update((number, self.versions.get(number, 1) + 1) for number in numbers)

    def _envelope(self, sequence: int, action: str, state: str, moment: datetime, number: int, *, gone: bool) -> bytes:
        entry = {
            "sequence": sequence,
            "partitionName": "Microsoft.Default",
            "studyInstanceUid": study_uid(number // self.spec.study_size),
            "seriesInstanceUid": series_uid(number // (self.spec.study_size // _SERIES_PER_STUDY)),
            "sopInstanceUid": instance_uid(number),
            "action": action,
            "timestamp": f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}4Z",
            "state": state,
        }
        if not gone:
            entry["filePath"] = file_path(number, self.versions.get(number, 1))
        return json.dumps(entry, separators=(",", ":")).encode()[:-1]

    def _metadata(self, number: int) -> bytes:
        size = self.spec.study_size
        study, series = number // size, number // (size // _SERIES_PER_STUDY)
        text, slots = _series_text(study, series, self.versions.get(number, 1), brief=self.spec.brief)
        place = number % size
        noise = number * 0x9E3779B97F4A7C15 % 2**63  # what differs from image to image, as a scanner's values do
        values = {
            "sop": instance_uid(number),
            "number": str(place + 1),
            "location": f"{place * 2.5 - 100:.1f}",
            "position": f"{noise % 9973 / 50 - 100:.6f},{noise % 7919 / 40 - 100:.6f},{place * 2.5 - 100:.1f}",
            "centre": str(noise % 400),
            "width": str(noise % 1999),
            "current": str(100 + noise % 347),
            "second": f"{place % 60:02d}.{noise % 10**6:06d}",
        }
        return text % tuple(values[slot].encode() for slot in slots)

    def _describe(self, size: int) -> dict[str, object]:
        spec = self.spec
        dead = Counter(number // spec.study_size for number in self.dead)
        part = spec.study_size // _SERIES_PER_STUDY
        dead_series = Counter(number // part for number in self.dead)
        pairs = (
            (instance_uid(number), file_path(number, self.versions.get(number, 1)))
            for number in self.touched - self.dead
        )
        return {
            "changes": spec.changes,
            "size_bytes": size,
            "start": START.isoformat(),
            "end": (START + timedelta(hours=spec.hours)).isoformat(),
            "instances": self.created - len(self.dead),
            "series": _count_live(self.created, part, dead_series),
            "studies": _count_live(self.created, spec.study_size, dead),
            "digest": digest_of(pairs),
        }


def _count_live(created: int, size: int, dead: Counter[int]) -> int:
    groups = -(-created // size)
    return groups - sum(count == min(size, created - group * size) for group, count in dead.items())


@lru_cache(maxsize=64)
def _series_text(study: int, series: int, version: int, *, brief: bool) -> tuple[bytes, list[str]]:
    """The JSON of a series' instances, with `%s` where instances differ, and what goes there."""
    modality = "CT" if is_ct(study) else "MR"
    values = {**study_values(study), **series_values(series)}
    if version > 1:
        values["00100020"] = ("LO", f"C{version}{study:07d}")
        values["00081030"] = ("LO", f"Corrected {version - 1}")
    templates = _templates()[modality]
    template = templates[series % len(templates)]
    metadata = {
        **({tag: template[tag] for tag in _BRIEF} if brief else template),
        **{tag: {"vr": vr, "Value": [value]} for tag, (vr, value) in values.items()},
        **{tag: {"vr": vr, "Value": [f"@{slot}@"]} for slot, (tag, vr) in _SLOTS.items()},
        "00080033": {"vr": "TM", "Value": ["1012@second@"]},
        "0020000D": {"vr": "UI", "Value": [study_uid(study)]},
        "0020000E": {"vr": "UI", "Value": [series_uid(series)]},
        "00200052": {"vr": "UI", "Value": [uid(4, study)]},
    }
    text = json.dumps(dict(sorted(metadata.items())), separators=(",", ":")).replace("%", "%%")
    for slot, (_, vr) in _SLOTS.items():
        if vr in ("DS", "IS"):  # numbers, not texts
            text = text.replace(f'"@{slot}@"', f"@{slot}@")
    places = sorted((text.index(f"@{slot}@"), slot) for slot in (*_SLOTS, "second"))
    for _, slot in places:
        text = text.replace(f"@{slot}@", "%s")
    return text.encode(), [slot for _, slot in places]


@cache
def _templates() -> dict[str, list[dict[str, object]]]:
    """Metadata of CT and MR files that come with pydicom, private elements included, one file of each size."""
    from dicom_assets.emulator.datasets.sources import bundled_files
    from dicom_assets.emulator.metadata.data_set import read_metadata

    found: dict[str, dict[int, dict[str, object]]] = {"CT": {}, "MR": {}}
    for dataset in (file.dataset() for file in bundled_files()):
        if dataset.get("Modality", "") in found:
            metadata = read_metadata(dataset).metadata
            size = len(json.dumps(metadata, separators=(",", ":")))
            if size in _SIZES and (dataset.Modality == "MR" or size > 2 * _SIZES[0]):
                found[dataset.Modality].setdefault(size, metadata)
    return {modality: [sizes[size] for size in sorted(sizes)] for modality, sizes in found.items()}
