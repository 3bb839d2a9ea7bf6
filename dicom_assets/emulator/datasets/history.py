"""A synthetic history of a service, spread over hours: studies arrive, are corrected, deleted and stored again."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Final

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


_Step = tuple[Ticks, Callable[[Ticks], None]]
"""Planned change: its time, and a function that makes the change at this time."""


@dataclass(frozen=True)
class _Study:
    uid: str
    partition: str
    instances: Sequence[DicomFile | Metadata]


def write_history(
    service: Service,
    *,
    start: datetime,
    hours: int = 24,
    instances: int = 2000,
    seed: int = 0,
    files: Iterable[DicomFile] = (),
    partitions: tuple[str, str] = (DEFAULT_PARTITION, "research"),
    progress: Progress | None = None,
    skip: Skip = ignore,
) -> History:
    """Write a history into an empty service; equal arguments produce equal feeds.

    Where the service keeps padding, UIDs and values of synthetic instances have varying padding. Where it has a file
    store, each instance that is live in the end has a file there.

    Args:
        service: The service; it gets all changes in one transaction, in the order of their times.
        start: Start of the first hour, with a time zone.
        hours: Number of hours over which the changes are spread; later changes are dropped.
        instances: Number of synthetic instances.
        seed: Seed that fixes every random choice.
        files: DICOM files that arrive among the synthetic instances.
        partitions: Data partitions; most studies lie in the first, some in the second.
        progress: Called with the number of steps done and the number of all steps.
        skip: Called with each file that cannot be stored, and the reason.

    Returns:
        The numbers of changes.
    """
    rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
    made_up = list(synthesize(instances, seed=seed, day=start.date()))
    padding = random.Random(f"{seed}, padding") if service.keep_padding else None  # noqa: S311 - as above
    writer = _Writer(service, padding, skip)
    steps: list[_Step] = []
    for study in (*_group_files(files, partitions[0]), *_group_made_up(made_up, partitions)):
        steps += writer.plan(study, ticks_of(start) + _choose_arrival(rng, start, hours), rng)
    end = ticks_of(start + timedelta(hours=hours))
    steps = sorted((step for step in steps if step[0] < end), key=itemgetter(0))
    with service.transaction():
        for number, (ticks, act) in enumerate(steps, 1):
            act(ticks)
            if progress is not None and (number % _STEPS_PER_REPORT == 0 or number == len(steps)):
                progress(number, len(steps))
    service.write_missing_files()
    return writer.history


@dataclass
class _Writer:
    """Writer of a service's changes, which counts the changes."""

    service: Service
    padding: random.Random | None
    """Source of the random padding; None means no padding."""
    skip: Skip
    history: History = field(default_factory=History)

    def plan(self, study: _Study, now: Ticks, rng: random.Random) -> Iterator[_Step]:
        """Yield all changes of a study that arrives now."""
        for instance in study.instances:
            if rng.random() >= _SHARE_OF_TIES:
                now += rng.randrange(TICKS_PER_SECOND)
            yield now, partial(self._store, study, instance)
        if rng.random() < _SHARE_CORRECTED:
            now += rng.randrange(_HOUR // 12, 6 * _HOUR)
            yield now, partial(self._correct, study, build_correction(rng))
        if rng.random() < _SHARE_WITH_DELETION:
            now += rng.randrange(_HOUR // 12, 6 * _HOUR)
            instance = rng.choice(study.instances)
            yield now, partial(self._delete, study, _read_uids(instance)[: rng.randrange(3)])
            if rng.random() < _SHARE_STORED_AGAIN:
                now += rng.randrange(_HOUR // 60, 2 * _HOUR)
                yield now, partial(self._store, study, instance)

    def _store(self, study: _Study, instance: DicomFile | Metadata, at: Ticks) -> None:
        try:
            if isinstance(instance, DicomFile):
                instance.store(self.service, partition=study.partition, at=at)
            else:
                padded = pad_metadata(instance, self.padding) if self.padding else instance
                self.service.store_metadata(padded, partition=study.partition, at=at)
        except REFUSED as error:
            self.history.refused += 1
            if isinstance(instance, DicomFile):
                self.skip(instance.path, describe_refusal(error))
        else:
            self.history.created += 1

    def _correct(self, study: _Study, changes: Metadata, at: Ticks) -> None:
        uid = pad_uid(study.uid, self.padding) if self.padding else study.uid
        self.history.updated += self.service.update(uid, changes, partition=study.partition, at=at)

    def _delete(self, study: _Study, uids: tuple[str, ...], at: Ticks) -> None:
        self.history.deleted += self.service.delete(study.uid, *uids, partition=study.partition, at=at)


def _read_uids(instance: DicomFile | Metadata) -> tuple[str, ...]:
    """Return the series and SOP instance UID."""
    if isinstance(instance, DicomFile):
        return instance.key[1:]
    return first_value(instance, SERIES_INSTANCE_UID), first_value(instance, SOP_INSTANCE_UID)


def _group_files(files: Iterable[DicomFile], partition: str) -> Iterator[_Study]:
    by_study: dict[str, list[DicomFile]] = {}
    for file in files:
        by_study.setdefault(file.study, []).append(file)
    return (_Study(uid, partition, instances) for uid, instances in by_study.items())


def _group_made_up(made_up: Iterable[Metadata], partitions: tuple[str, str]) -> Iterator[_Study]:
    studies = groupby(made_up, lambda metadata: first_value(metadata, STUDY_INSTANCE_UID))
    for number, (uid, instances) in enumerate(studies, 1):
        yield _Study(uid, partitions[number % _SECOND_PARTITION_EVERY == 0], list(instances))


def _choose_arrival(rng: random.Random, start: datetime, hours: int) -> Ticks:
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
