"""Continuous changes at a slow pace: studies arrive, are corrected, deleted and stored again."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

from dicom_assets.core.tables.change_feed import DEFAULT_PARTITION
from dicom_assets.emulator.datasets.history import build_correction
from dicom_assets.emulator.datasets.sources import build_study
from dicom_assets.emulator.metadata.data_set import (
    SERIES_INSTANCE_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    Metadata,
    first_value,
)
from dicom_assets.emulator.store.store import Service

_PARTITIONS: Final = {DEFAULT_PARTITION: 4, "research": 1}
"""Data partitions with their weights: one study in five lies in the second."""
_REMEMBERED: Final = 50
"""Number of most recent studies that may still be changed."""
_LEVELS: Final = ("study", "series", "instance")
"""Levels at which a study is deleted, from the top."""


@dataclass
class _Study:
    uid: str
    partition: str
    live: list[Metadata]
    deleted: list[Metadata]


class Producer:
    """Simulated clinic that makes one random change to its service per call. Equal seeds make equal changes."""

    def __init__(self, service: Service, *, seed: int = 0) -> None:
        self._service = service
        # A service that is opened again holds the studies of earlier sessions, so the seed must differ.
        self._rng = random.Random(f"{seed}, after {service.change_count()} changes")  # noqa: S311 - not secret
        self._studies: list[_Study] = []

    def act(self, today: date) -> str:
        """Store a study, or correct, delete or store again an earlier one.

        Args:
            today: Date of a new study.

        Returns:
            The change in words, without patient data.
        """
        live = [study for study in self._studies if study.live]
        gone = [study for study in self._studies if study.deleted]
        ways: list[tuple[Callable[[], str], int]] = [(lambda: self._store_study(today), 60)]
        if live:
            ways += [(lambda: self._correct(self._rng.choice(live)), 20), (lambda: self._delete(live), 12)]
        if gone:
            ways.append((lambda: self._store_again(self._rng.choice(gone)), 8))
        acts, weights = zip(*ways, strict=True)
        return str(self._rng.choices(acts, weights)[0]())

    def _store_study(self, today: date) -> str:
        instances = list(build_study(self._rng, today))
        partition = self._rng.choices(list(_PARTITIONS), list(_PARTITIONS.values()))[0]
        self._store(instances, partition)
        study = _Study(first_value(instances[0], STUDY_INSTANCE_UID), partition, instances, [])
        self._studies = [*self._studies, study][-_REMEMBERED:]
        return f"{first_value(instances[0], '00080060')} study stored, {_count(instances)}"

    def _correct(self, study: _Study) -> str:
        self._service.update(study.uid, build_correction(self._rng), partition=study.partition)
        return f"study corrected, {_count(study.live)}"

    def _delete(self, live: list[_Study]) -> str:
        """Delete a study, a series or an instance."""
        study = self._rng.choice(live)
        depth = self._rng.randrange(3)
        uids = _read_uids(self._rng.choice(study.live), depth)
        self._service.delete(study.uid, *uids, partition=study.partition)
        gone = [instance for instance in study.live if _read_uids(instance, depth) == uids]
        study.live = [instance for instance in study.live if instance not in gone]
        study.deleted += gone
        return f"{_LEVELS[depth]} deleted" + (f", {_count(gone)}" if depth < len(_LEVELS) - 1 else "")

    def _store_again(self, study: _Study) -> str:
        back, study.deleted = study.deleted, []
        self._store(back, study.partition)
        study.live += back
        return f"deleted instances stored again, {_count(back)}"

    def _store(self, instances: list[Metadata], partition: str) -> None:
        with self._service.transaction():
            for metadata in instances:
                self._service.store_metadata(metadata, partition=partition, write_file=True)


@contextmanager
def producing(
    producer: Producer, *, per_minute: float, tell: Callable[[datetime, str], None], seed: int = 0
) -> Iterator[None]:
    """Run a producer in the background until the block ends, at random intervals.

    Args:
        producer: The producer.
        per_minute: Average number of changes per minute; 0 means none.
        tell: Called with the time (UTC) and the description of each change.
        seed: Seed that fixes the intervals.
    """
    if not per_minute:
        yield
        return
    rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
    stopped = threading.Event()

    def work() -> None:
        while not stopped.wait(rng.expovariate(per_minute / 60)):
            now = datetime.now(UTC)
            tell(now, producer.act(now.date()))

    thread = threading.Thread(target=work, name="dicom-producer", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _count(instances: list[Metadata]) -> str:
    return "1 instance" if len(instances) == 1 else f"{len(instances)} instances"


def _read_uids(instance: Metadata, depth: int) -> list[str]:
    """Return the first UIDs below the study's, as many as the depth of a level."""
    return [first_value(instance, tag) for tag in (SERIES_INSTANCE_UID, SOP_INSTANCE_UID)[:depth]]
