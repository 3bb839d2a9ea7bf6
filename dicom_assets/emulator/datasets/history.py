"""A synthetic history of a service, spread over hours: studies arrive, are corrected, deleted and stored again."""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from dicom_assets.core.tables.change_feed import DEFAULT_PARTITION
from dicom_assets.emulator.clock import TICKS_PER_SECOND, Ticks, ticks_of
from dicom_assets.emulator.datasets.sources import (
    REFUSED,
    DicomFile,
    Skip,
    describe_refusal,
    ignore,
    pad_metadata,
    pad_uid,
    synthesize,
)
from dicom_assets.emulator.metadata.data_set import (
    SERIES_INSTANCE_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    Metadata,
    first_value,
)
from dicom_assets.emulator.store.store import Service

Progress = Callable[[int, int], None]
"""Called with the number of steps done and the number of all steps."""

_SECOND_PARTITION_EVERY: Final = 5
"""Every fifth synthetic study lies in the second partition."""
_SHARE_CORRECTED: Final = 0.25
_SHARE_WITH_DELETION: Final = 0.2
_SHARE_STORED_AGAIN: Final = 0.4
"""Share of the studies with a deletion whose deleted instance is stored again."""
_SHARE_OF_TIES: Final = 0.1
"""Share of the instances that are stored at exactly the time of the previous instance."""
_QUIET_HOURS: Final = frozenset(range(6))
_HOUR: Final = 3600 * TICKS_PER_SECOND
_STEPS_PER_REPORT: Final = 200


@dataclass
class History:
    """Numbers of a history's changes, by action."""

    created: int = 0
    updated: int = 0
    deleted: int = 0
    refused: int = 0
    """Number of times that a file could not be stored."""


_Store = Callable[..., object]
"""Stores an instance; takes `partition` and `at`."""
_Step = tuple[Ticks, Callable[[Ticks], None]]
"""Planned change: its time, and a function that makes the change at this time."""


@dataclass(frozen=True)
class _Study:
    uid: str
    partition: str
    instances: list[tuple[tuple[str, str], _Store]] = field(default_factory=list)
    """Series and SOP instance UID of each instance, with the function that stores the instance."""


def write_history(
    service: Service,
    *,
    start: datetime,
    hours: int = 24,
    instances: int = 2000,
    seed: int = 0,
    files: Iterable[DicomFile] = (),
    partitions: tuple[str, str] = (DEFAULT_PARTITION, "research"),
    write_files: bool = False,
    progress: Progress | None = None,
    skip: Skip = ignore,
) -> History:
    """Write a history into an empty service; equal arguments produce equal feeds.

    Where the service keeps padding, UIDs and values of synthetic instances have varying padding.

    Args:
        service: The service; it gets all changes in one transaction, in the order of their times.
        start: Start of the first hour, with a time zone.
        hours: Number of hours over which the changes are spread; later changes are dropped.
        instances: Number of synthetic instances.
        seed: Seed that fixes every random choice.
        files: DICOM files that arrive among the synthetic instances.
        partitions: Data partitions; most studies lie in the first, some in the second.
        write_files: Whether to write DICOM files for synthetic instances too, where there is a file store; this is much
            slower.
        progress: Called with the number of steps done and the number of all steps.
        skip: Called with each file that cannot be stored, and the reason.

    Returns:
        The numbers of changes.
    """
    rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
    made_up = list(synthesize(instances, seed=seed, day=start.date()))
    padding = random.Random(f"{seed}, padding") if service.keep_padding else None  # noqa: S311 - as above
    writer = _Writer(service, padding, write_files, skip)
    studies = (
        *_group_files(files, partitions[0], writer.store_file),
        *_group(made_up, partitions, writer.store_made_up),
    )
    end = ticks_of(start + timedelta(hours=hours))
    planned = (
        step for study in studies for step in writer.plan(study, ticks_of(start) + _arrival(rng, start, hours), rng)
    )
    steps = sorted((step for step in planned if step[0] < end), key=itemgetter(0))
    with service.transaction():
        for number, (ticks, act) in enumerate(steps, 1):
            act(ticks)
            if progress is not None and (number % _STEPS_PER_REPORT == 0 or number == len(steps)):
                progress(number, len(steps))
    return writer.history


@dataclass
class _Writer:
    """Writer of a service's changes, which counts the changes."""

    service: Service
    padding: random.Random | None
    """Source of the random padding; None means no padding."""
    write_files: bool
    skip: Skip
    history: History = field(default_factory=History)

    def plan(self, study: _Study, now: Ticks, rng: random.Random) -> Iterator[_Step]:
        """Yield all changes of a study that arrives now."""
        for _, store_instance in study.instances:
            if rng.random() >= _SHARE_OF_TIES:
                now += rng.randrange(TICKS_PER_SECOND)
            yield now, partial(self._store, study, store_instance)
        if rng.random() < _SHARE_CORRECTED:
            now += rng.randrange(_HOUR // 12, 6 * _HOUR)
            yield now, partial(self._correct, study, build_correction(rng))
        if rng.random() < _SHARE_WITH_DELETION:
            now += rng.randrange(_HOUR // 12, 6 * _HOUR)
            uids, store_instance = rng.choice(study.instances)
            yield now, partial(self._delete, study, uids[: rng.randrange(3)])
            if rng.random() < _SHARE_STORED_AGAIN:
                now += rng.randrange(_HOUR // 60, 2 * _HOUR)
                yield now, partial(self._store, study, store_instance)

    def store_made_up(self, metadata: Metadata, **options: Any) -> None:
        padded = pad_metadata(metadata, self.padding) if self.padding else metadata
        self.service.store_metadata(padded, write_file=self.write_files, **options)

    def store_file(self, file: DicomFile, **options: Any) -> None:
        try:
            file.store(self.service, **options)
        except REFUSED as error:
            self.skip(file.path, describe_refusal(error))
            raise

    def _store(self, study: _Study, store_instance: _Store, at: Ticks) -> None:
        try:
            store_instance(partition=study.partition, at=at)
        except REFUSED:
            self.history.refused += 1
        else:
            self.history.created += 1

    def _correct(self, study: _Study, changes: Metadata, at: Ticks) -> None:
        uid = pad_uid(study.uid, self.padding) if self.padding else study.uid
        self.history.updated += self.service.update(uid, changes, partition=study.partition, at=at)

    def _delete(self, study: _Study, uids: tuple[str, ...], at: Ticks) -> None:
        self.history.deleted += self.service.delete(study.uid, *uids, partition=study.partition, at=at)


def _group_files(files: Iterable[DicomFile], partition: str, store: _Store) -> Iterable[_Study]:
    by_study: dict[str, _Study] = {}
    for file in files:
        study = by_study.setdefault(file.study, _Study(file.study, partition))
        study.instances.append(((file.series, file.sop_instance), partial(store, file)))
    return by_study.values()


def _group(made_up: Iterable[Metadata], partitions: tuple[str, str], store: _Store) -> Iterator[_Study]:
    studies = groupby(made_up, lambda metadata: first_value(metadata, STUDY_INSTANCE_UID))
    for number, (uid, group) in enumerate(studies, 1):
        study = _Study(uid, partitions[number % _SECOND_PARTITION_EVERY == 0])
        for metadata in group:
            uids = first_value(metadata, SERIES_INSTANCE_UID), first_value(metadata, SOP_INSTANCE_UID)
            study.instances.append((uids, partial(store, metadata)))
        yield study


def _arrival(rng: random.Random, start: datetime, hours: int) -> Ticks:
    """Return a random arrival of a study's first instance, in ticks after the start; few studies arrive at night."""
    weights = [1 if (start.hour + hour) % 24 in _QUIET_HOURS else 5 for hour in range(hours)]
    return rng.choices(range(hours), weights)[0] * _HOUR + rng.randrange(_HOUR)


def build_correction(rng: random.Random) -> Metadata:
    """Return a correction: a new patient ID and accession number, and the description "Corrected"."""
    return {
        "00080050": {"vr": "SH", "Value": [f"C{rng.randrange(10**8):08d}"]},
        "00081030": {"vr": "LO", "Value": ["Corrected"]},
        "00100020": {"vr": "LO", "Value": [f"P{rng.randrange(10**6):06d}"]},
    }
