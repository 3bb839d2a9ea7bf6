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


@dataclass(frozen=True)
class _Instance:
    series: str
    sop_instance: str
    store: Callable[..., object]
    """Stores the instance; takes `partition` and `at`."""


@dataclass(frozen=True)
class _Study:
    uid: str
    partition: str
    instances: list[_Instance] = field(default_factory=list)


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
    skip: Skip | None = None,
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
    history = History()
    padding = random.Random(f"{seed}, padding") if service.keep_padding else None  # noqa: S311 - as above
    store = partial(_store_made_up, service, padding, write_file=write_files)
    steps: list[tuple[Ticks, Callable[[Ticks], None]]] = []
    for study in (*_studies_of_files(service, files, partitions[0], skip), *_studies_of(store, made_up, partitions)):
        life = _Life(service, study, history, padding)
        life.plan(ticks_of(start) + _arrival(rng, start, hours), rng)
        steps += life.steps
    end = ticks_of(start + timedelta(hours=hours))
    steps = sorted((step for step in steps if step[0] < end), key=itemgetter(0))
    with service.transaction():
        for number, (ticks, act) in enumerate(steps, 1):
            act(ticks)
            if progress is not None and (number % _STEPS_PER_REPORT == 0 or number == len(steps)):
                progress(number, len(steps))
    return history


def _store_made_up(service: Service, padding: random.Random | None, metadata: Metadata, **options: Any) -> None:
    service.store_metadata(pad_metadata(metadata, padding) if padding else metadata, **options)


def _store_file(service: Service, file: DicomFile, skip: Skip | None, **options: Any) -> None:
    try:
        file.store(service, **options)
    except REFUSED as error:
        if skip is not None:
            skip(file.path, describe_refusal(error))
        raise


def _studies_of_files(
    service: Service, files: Iterable[DicomFile], partition: str, skip: Skip | None
) -> Iterator[_Study]:
    by_study: dict[str, _Study] = {}
    for file in files:
        study = by_study.setdefault(file.study, _Study(file.study, partition))
        study.instances.append(_Instance(file.series, file.sop_instance, partial(_store_file, service, file, skip)))
    return iter(by_study.values())


def _studies_of(
    store: Callable[..., object], made_up: Iterable[Metadata], partitions: tuple[str, str]
) -> Iterator[_Study]:
    studies = groupby(made_up, lambda metadata: first_value(metadata, STUDY_INSTANCE_UID))
    for number, (uid, group) in enumerate(studies, 1):
        study = _Study(uid, partitions[number % _SECOND_PARTITION_EVERY == 0])
        for metadata in group:
            series, sop_instance = (first_value(metadata, tag) for tag in (SERIES_INSTANCE_UID, SOP_INSTANCE_UID))
            study.instances.append(_Instance(series, sop_instance, partial(store, metadata)))
        yield study


def _arrival(rng: random.Random, start: datetime, hours: int) -> Ticks:
    """Return a random arrival of a study's first instance, in ticks after the start; few studies arrive at night."""
    weights = [1 if (start.hour + hour) % 24 in _QUIET_HOURS else 5 for hour in range(hours)]
    return rng.choices(range(hours), weights)[0] * _HOUR + rng.randrange(_HOUR)


class _Life:
    """Planned changes of one study in a service."""

    def __init__(self, service: Service, study: _Study, history: History, padding: random.Random | None) -> None:
        self._service = service
        self._padding = padding
        self._study = study
        self._history = history
        self.steps: list[tuple[Ticks, Callable[[Ticks], None]]] = []

    def plan(self, now: Ticks, rng: random.Random) -> None:
        """Plan all changes from the arrival on.

        Args:
            now: Time of the arrival.
            rng: Source of the random choices.
        """
        for instance in self._study.instances:
            if rng.random() >= _SHARE_OF_TIES:
                now += rng.randrange(TICKS_PER_SECOND)
            self._add(now, partial(self._store, instance))
        if rng.random() < _SHARE_CORRECTED:
            now += rng.randrange(_HOUR // 12, 6 * _HOUR)
            self._add(now, partial(self._correct, build_correction(rng)))
        if rng.random() < _SHARE_WITH_DELETION:
            now += rng.randrange(_HOUR // 12, 6 * _HOUR)
            instance = rng.choice(self._study.instances)
            depth = rng.randrange(3)
            uids = (instance.series, instance.sop_instance)[:depth]
            self._add(now, partial(self._delete, uids))
            if rng.random() < _SHARE_STORED_AGAIN:
                now += rng.randrange(_HOUR // 60, 2 * _HOUR)
                self._add(now, partial(self._store, instance))

    def _add(self, ticks: Ticks, act: Callable[[Ticks], None]) -> None:
        self.steps.append((ticks, act))

    def _store(self, instance: _Instance, at: Ticks) -> None:
        try:
            instance.store(partition=self._study.partition, at=at)
        except REFUSED:
            self._history.refused += 1
        else:
            self._history.created += 1

    def _correct(self, changes: Metadata, at: Ticks) -> None:
        uid = pad_uid(self._study.uid, self._padding) if self._padding else self._study.uid
        self._history.updated += self._service.update(uid, changes, partition=self._study.partition, at=at)

    def _delete(self, uids: tuple[str, ...], at: Ticks) -> None:
        self._history.deleted += self._service.delete(self._study.uid, *uids, partition=self._study.partition, at=at)


def build_correction(rng: random.Random) -> Metadata:
    """Return a correction: a new patient ID and accession number, and the description "Corrected"."""
    return {
        "00080050": {"vr": "SH", "Value": [f"C{rng.randrange(10**8):08d}"]},
        "00081030": {"vr": "LO", "Value": ["Corrected"]},
        "00100020": {"vr": "LO", "Value": [f"P{rng.randrange(10**6):06d}"]},
    }
