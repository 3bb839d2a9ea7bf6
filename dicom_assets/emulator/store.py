"""The embedded DICOM service without HTTP: instances are stored, updated and deleted, and its change feed is read.

Source: the public DICOM server's rules for storing, deleting and bulk updates, and its change feed.
"""

import json
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from pydicom.dataset import Dataset

from dicom_assets.core.change_feed import DEFAULT_PARTITION
from dicom_assets.emulator.clock import Ticks, format_ticks, ticks_now, ticks_of
from dicom_assets.emulator.database import Database
from dicom_assets.emulator.errors import InvalidInstanceError
from dicom_assets.emulator.feed import CREATE, DELETE, LATEST, PAGE, UPDATE, Row, to_entry, to_json
from dicom_assets.emulator.files import FileStore
from dicom_assets.emulator.metadata import (
    PATIENT_ID,
    SERIES_INSTANCE_UID,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    Metadata,
    build_dataset,
    encode,
    first_text,
    first_value,
    read_metadata,
)
from dicom_assets.emulator.padding import keep_blanks, strip_padding
from dicom_assets.emulator.unreadable import Fault
from dicom_assets.emulator.updates import check_changes

Moment = datetime | Ticks
"""A datetime with a time zone or, to 100 ns, ticks."""

_END_OF_TIME: Final = 2**63 - 1
_UID = re.compile(r"(?=.{1,64}\Z)[0-9.]*[0-9]", re.ASCII)


@dataclass(frozen=True)
class Stored:
    """What became of a data set that was stored."""

    study: str
    series: str
    sop_instance: str
    sop_class: str
    sequence: int
    dropped: tuple[str, ...] = ()
    """Tags of the elements that could not be read and are missing from the metadata."""


def is_uid(text: str, *, keep_padding: bool = False) -> bool:
    """Whether the service accepts the text as a UID: digits and dots, at most 64, a digit last.

    Args:
        text: any.
        keep_padding: blanks may follow, as the real service lets them.
    """
    return _UID.fullmatch(text.rstrip(" ") if keep_padding else text) is not None


class Service:
    """The embedded service. Safe to share between threads.

    Args:
        database: SQLite file that keeps the state; None keeps it in memory.
        file_store: folder for the DICOM files; None is a service without Data Lake Storage: its entries have no path.
        workspace: the workspace in the files' paths.
        name: the service in the files' paths.
        clock: tells the time of changes that are not given one; None is the system's, to 100 ns.
        seed: fixes where the feed's sequences have gaps.
        validate: leave elements out of the metadata that do not fit their value representation, as the real service
            does from API v2 on; otherwise only those that cannot be converted.
        keep_padding: take UIDs with trailing blanks and show them as they came, and leave NULs at the end of values,
            as the real service does; otherwise padding is cut off. UIDs that differ in trailing blanks are equal in
            any case.
        faulty_every: of so many instances, in the order in which they are first stored, the last gets metadata that
            cannot be given out; 0 spares all. More are chosen by `break_metadata`.
        faults: what is wrong with them, in turn.

    Raises:
        EmulatorStartError: the database cannot be opened, or another process has it.
    """

    def __init__(
        self,
        database: Path | None = None,
        *,
        file_store: Path | None = None,
        workspace: str = "contosohealth",
        name: str = "contosoclinic",
        clock: Callable[[], datetime] | None = None,
        seed: int = 0,
        validate: bool = False,
        keep_padding: bool = False,
        faulty_every: int = 0,
        faults: Sequence[Fault] = (Fault.MISSING,),
    ) -> None:
        self._validate = validate
        self._faulty_every = faulty_every
        self._faults = faults
        self.keep_padding = keep_padding
        """Whether UIDs and values keep their padding."""
        self._files = FileStore(file_store, workspace, name)
        self._clock = clock
        self._database = Database(database, seed)
        with self.transaction():
            self._database.add_partition(DEFAULT_PARTITION, self._ticks(None))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; what is in memory is gone."""
        self._database.close()

    def transaction(self) -> AbstractContextManager[None]:
        """Everything inside happens or nothing does, and much faster than one by one. May be nested."""
        return self._database.transaction()

    def store(
        self,
        dataset: Dataset,
        *,
        partition: str = DEFAULT_PARTITION,
        at: Moment | None = None,
        content: bytes | None = None,
    ) -> Stored:
        """Store a data set, and its file where there is a file store.

        Args:
            dataset: the data set.
            partition: the data partition; made if it does not exist.
            at: the change's time; None asks the clock. It may lie in the past: a transaction that committed late.
            content: the file's bytes as received; None encodes the data set.

        Raises:
            InstanceExistsError: it is already stored.
            InvalidInstanceError: a required attribute is missing, a UID is none, or the data set cannot be kept.
            InvalidPartitionError: the partition's name is not accepted.
        """
        read = read_metadata(dataset, keep_padding=self.keep_padding, validate=self._validate)
        for tag in (SOP_CLASS_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID, SOP_INSTANCE_UID):
            if not is_uid(first_value(read.metadata, tag)):
                raise InvalidInstanceError(f"The element {tag} is required and must be a UID.")
        if PATIENT_ID not in read.metadata:
            raise InvalidInstanceError(f"The element {PATIENT_ID} is required; it may be empty.")
        with self.transaction():
            path = self._next_path(partition)
            stored = self._create(read.metadata, partition, at, path, read.dropped)
            if path is not None:
                self._files.write(path, encode(dataset) if content is None else content)
        return stored

    def store_metadata(
        self,
        metadata: Metadata,
        *,
        partition: str = DEFAULT_PARTITION,
        at: Moment | None = None,
        file_path: str | None = None,
        write_file: bool = False,
    ) -> Stored:
        """Store an instance by its metadata alone: quick, its values unchecked.

        Args:
            metadata: the data set in the DICOM JSON model, kept as given. Blanks at the end of its UIDs are shown in
                entries where the service keeps padding.
            partition: the data partition; made if it does not exist.
            at: as in `store`.
            file_path: the path its entries show; None makes one where the service has a file store.
            write_file: write a file with the metadata's elements, where there is a file store; slower by far.

        Raises:
            InstanceExistsError: it is already stored.
            InvalidInstanceError: one of the three UIDs is missing.
            InvalidPartitionError: the partition's name is not accepted.
        """
        with self.transaction():
            path = file_path or self._next_path(partition)
            stored = self._create(metadata, partition, at, path)
            if write_file and path is not None and self._files.root is not None:
                self._files.write(path, encode(build_dataset(metadata)))
        return stored

    def delete(
        self,
        study: str,
        series: str | None = None,
        sop_instance: str | None = None,
        *,
        partition: str = DEFAULT_PARTITION,
        at: Moment | None = None,
    ) -> int:
        """Delete a study, a series or an instance; all their changes bear the same time and show the stored UIDs.

        Blanks at the end of a UID make no difference.

        Returns:
            The number of instances deleted.
        """
        with self.transaction():
            found = self._database.find(partition, study, series, sop_instance)
            ticks = self._ticks(at)
            for live in found:
                self._database.delete(live.key)
                uids = (live.study, live.series, live.sop_instance)
                self._database.append_change(ticks, DELETE, live.key, live.version, uids)
        for live in found:
            self._files.remove(live.file_path)
            self._files.remove(live.original_file_path)
        return len(found)

    def update(
        self, study: str, changes: Metadata, *, partition: str = DEFAULT_PARTITION, at: Moment | None = None
    ) -> int:
        """Change attributes in every instance of a study: one Update each, a new version, a new file under a new name.

        All changes bear the same time. Blanks at the end of the study's UID make no difference to what is changed;
        where the service keeps padding, the entries show the study's UID as it is given here.

        Returns:
            The number of instances changed.

        Raises:
            InvalidUpdateError: an attribute that the service does not change, or a value that is none.
        """
        check_changes(changes)
        with self.transaction():
            found = self._database.find(partition, study)
            ticks = self._ticks(at)
            for live in found:
                version = self._database.version + 1
                path = self._files.path(partition, version) if live.file_path else None
                changed = dict(sorted({**json.loads(live.metadata), **changes}.items()))
                self._database.update(live.key, _to_text(changed), path)
                uids = (self._shown(study), live.series, live.sop_instance)
                self._database.append_change(ticks, UPDATE, live.key, version, uids)
                if live.file_path and path:
                    self._files.rewrite(live.file_path, path, changes)
        for live in found:
            if live.file_path != live.original_file_path:  # the service keeps the original and the newest
                self._files.remove(live.file_path)
        return len(found)

    def change_feed(
        self,
        *,
        start: Moment | None = None,
        end: Moment | None = None,
        offset: int = 0,
        limit: int = 100,
        include_metadata: bool = True,
        omit_unreadable: bool = False,
    ) -> list[dict[str, Any]]:
        """A page of the feed: entries with start ≤ timestamp < end, by timestamp and sequence, ready for JSON.

        State, metadata and path are those of now. Members without a value are left out. Any limit from 1 on is served.

        Args:
            start: inclusive; None is the beginning.
            end: exclusive; None is the end.
            offset: entries to skip.
            limit: entries at most.
            include_metadata: whether entries hold metadata.
            omit_unreadable: give entries whose metadata cannot be given out without metadata.

        Raises:
            UnreadableMetadataError: the page holds an instance whose metadata cannot be given out, whatever the fault.
        """
        rows = self._page(start, end, offset, limit, include_metadata)
        return [to_entry(row, omit_unreadable=omit_unreadable) for row in rows]

    def change_feed_json(
        self,
        *,
        start: Moment | None = None,
        end: Moment | None = None,
        offset: int = 0,
        limit: int = 100,
        include_metadata: bool = True,
    ) -> bytes:
        """As `change_feed`, as JSON text; the metadata is passed on without being parsed.

        Raises:
            UnreadableMetadataError: the page holds an instance whose metadata has a fault with which no page comes.
                With other faults the text is no usable JSON.
        """
        entries = self.change_feed_entries(
            start=start, end=end, offset=offset, limit=limit, include_metadata=include_metadata
        )
        return b"[%s]" % b",".join(entries)

    def change_feed_entries(
        self,
        *,
        start: Moment | None = None,
        end: Moment | None = None,
        offset: int = 0,
        limit: int = 100,
        include_metadata: bool = True,
    ) -> list[bytes]:
        """As `change_feed_json`, entry by entry."""
        return [to_json(row) for row in self._page(start, end, offset, limit, include_metadata)]

    def latest(self, *, include_metadata: bool = True) -> dict[str, Any] | None:
        """The newest entry by timestamp and sequence, or None on an empty feed.

        Raises:
            UnreadableMetadataError: its metadata cannot be given out, whatever the fault.
        """
        rows = self._database.fetch(LATEST, {"include_metadata": include_metadata})
        return to_entry(rows[0]) if rows else None

    def latest_json(self, *, include_metadata: bool = True) -> bytes | None:
        """As `latest`, as JSON text.

        Raises:
            UnreadableMetadataError: its metadata has a fault with which no page comes.
        """
        rows = self._database.fetch(LATEST, {"include_metadata": include_metadata})
        return to_json(rows[0]) if rows else None

    def break_metadata(self, which: str | int, fault: Fault = Fault.MISSING, *, partition: str | None = None) -> int:
        """Make the metadata of live instances unreadable until they are healed, deleted or stored anew.

        Args:
            which: a SOP instance UID, with or without blanks behind it, or the sequence of one of its entries.
            fault: what is wrong from now on.
            partition: the data partition; None means all.

        Returns:
            The number of instances.
        """
        return self._set_fault(which, partition, Fault(fault))

    def heal_metadata(self, which: str | int | None = None, *, partition: str | None = None) -> int:
        """Make the metadata of live instances readable again: `which` as in `break_metadata`, None heals all.

        Returns:
            The number of instances.
        """
        return self._database.heal_all() if which is None else self._set_fault(which, partition, None)

    def partitions(self) -> list[dict[str, Any]]:
        """The data partitions in the order in which they were made, ready for JSON."""
        return [
            {"partitionKey": key, "partitionName": name, "createdDate": format_ticks(created)}
            for key, name, created in self._database.fetch("SELECT key, name, created FROM data_partition ORDER BY key")
        ]

    def has_partition(self, name: str) -> bool:
        """Whether the data partition exists."""
        return name in self._database.partitions

    def instance_count(self) -> int:
        """The number of live instances."""
        return int(self._database.fetch("SELECT count(*) FROM instance WHERE version IS NOT NULL")[0][0])

    def change_count(self) -> int:
        """The number of entries in the feed."""
        return int(self._database.fetch("SELECT count(*) FROM change")[0][0])

    def _ticks(self, at: Moment | None) -> Ticks:
        if at is None:
            return ticks_now() if self._clock is None else ticks_of(self._clock())
        return at if isinstance(at, int) else ticks_of(at)

    def _next_path(self, partition: str) -> str | None:
        return self._files.path(partition, self._database.version + 1) if self._files.root else None

    def _create(
        self, metadata: Metadata, partition: str, at: Moment | None, path: str | None, dropped: tuple[str, ...] = ()
    ) -> Stored:
        study, series, sop_instance = uids = (
            self._shown(first_text(metadata, STUDY_INSTANCE_UID)),
            self._shown(first_text(metadata, SERIES_INSTANCE_UID)),
            self._shown(first_text(metadata, SOP_INSTANCE_UID)),
        )
        if not all(map(strip_padding, uids)):
            raise InvalidInstanceError("A study, a series and a SOP instance UID are required.")
        ticks = self._ticks(at)
        partition_key = self._database.add_partition(partition, ticks)
        key = self._database.create(partition_key, uids, _to_text(metadata), path)
        self._database.append_change(ticks, CREATE, key, self._database.version + 1, uids)
        if self._faulty_every and key % self._faulty_every == 0:
            fault = self._faults[(key // self._faulty_every - 1) % len(self._faults)]
            self._database.set_fault(self._database.sequence, None, fault)
        sop_class = first_value(metadata, SOP_CLASS_UID)
        return Stored(study, series, sop_instance, sop_class, self._database.sequence, dropped)

    def _set_fault(self, which: str | int, partition: str | None, fault: Fault | None) -> int:
        if partition is not None and not self.has_partition(partition):
            return 0
        return self._database.set_fault(which, self._database.partitions[partition] if partition else None, fault)

    def _shown(self, uid: str) -> str:
        """A UID as entries show it."""
        return keep_blanks(uid) if self.keep_padding else strip_padding(uid)

    def _page(
        self, start: Moment | None, end: Moment | None, offset: int, limit: int, include_metadata: bool
    ) -> list[Row]:
        if offset < 0 or limit < 1:
            raise ValueError("an offset is at least 0, a limit at least 1")
        parameters = {
            "start": 0 if start is None else self._ticks(start),
            "end": _END_OF_TIME if end is None else self._ticks(end),
            "offset": offset,
            "limit": limit,
            "include_metadata": include_metadata,
        }
        return self._database.fetch(PAGE, parameters)


def _to_text(metadata: Metadata) -> str:
    try:
        return json.dumps(metadata, separators=(",", ":"))
    except RecursionError:
        raise InvalidInstanceError("The sequences of the data set are nested too deep.") from None
