"""The embedded DICOM service without HTTP: it stores, updates and deletes instances, and returns its change feed.

Source: the public DICOM server's rules for storing, deleting and bulk updates, and its change feed.
"""

import json
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from pydicom.dataset import Dataset

from dicom_assets.core.tables.change_feed import DEFAULT_PARTITION
from dicom_assets.emulator.clock import Ticks, format_ticks, ticks_now, ticks_of
from dicom_assets.emulator.errors import InvalidInstanceError
from dicom_assets.emulator.metadata.data_set import (
    PATIENT_ID,
    SERIES_INSTANCE_UID,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    Metadata,
    encode,
    first_text,
    first_value,
    read_metadata,
)
from dicom_assets.emulator.metadata.files import FileStore
from dicom_assets.emulator.metadata.made_up_files import encode_files
from dicom_assets.emulator.metadata.padding import keep_blanks, strip_padding
from dicom_assets.emulator.store.database import FILE_PATHS, METADATA, Database
from dicom_assets.emulator.store.feed import LATEST, PAGE, PageRequest, to_entry, to_json
from dicom_assets.emulator.store.unreadable import Fault
from dicom_assets.emulator.store.updates import check_changes

Moment = datetime | Ticks
"""A datetime with a time zone, or ticks, which are exact to 100 ns."""

_UID = re.compile(r"(?=.{1,64}\Z)[0-9.]*[0-9]", re.ASCII)


@dataclass(frozen=True)
class Stored:
    """Result of storing a data set."""

    study: str
    series: str
    sop_instance: str
    sop_class: str
    sequence: int
    dropped: tuple[str, ...] = ()
    """Tags of the elements that could not be read, and are left out of the metadata."""


def is_uid(text: str, *, keep_padding: bool = False) -> bool:
    """Return whether the service accepts a text as a UID: digits and dots, at most 64, with a digit at the end.

    Args:
        text: Any text.
        keep_padding: Whether trailing blanks are allowed, as in the real service.
    """
    return _UID.fullmatch(text.rstrip(" ") if keep_padding else text) is not None


class Service:
    """The embedded service. Safe to share between threads.

    Args:
        database: SQLite file of the state; None keeps the state in memory.
        file_store: Folder for the DICOM files; None means a service without Data Lake Storage, whose entries have no
            path.
        workspace: Name of the workspace in the files' paths.
        name: Name of the service in the files' paths.
        clock: Returns the time, with a zone, of changes without an explicit time; None means the system clock, exact
            to 100 ns.
        seed: Seed that fixes the gaps in the feed's sequences.
        validate: Whether to leave out elements that do not fit their value representation, as the real service does
            from API v2 on; otherwise only elements that cannot be converted are left out.
        keep_padding: Whether to accept UIDs with trailing blanks and show them as received, and to keep trailing NULs
            of values, as the real service does; otherwise padding is removed. UIDs that differ in trailing blanks are
            equal in any case.
        faulty_every: Every `faulty_every`-th instance, in the order of first storing, gets metadata with a fault; 0
            means none. `break_metadata` adds faults to other instances.
        faults: Faults of these instances, in turn.

    Raises:
        EmulatorStartError: The database cannot be opened, or another process has it open.
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
        """True if UIDs and values keep their padding."""
        self._files = FileStore(file_store, workspace, name)
        self._clock = clock
        self._database = Database(database, seed)
        with self.transaction():
            self._database.add_partition(DEFAULT_PARTITION, self._ticks(None))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; a state in memory is lost."""
        self._database.close()

    def transaction(self) -> AbstractContextManager[None]:
        """Return a context manager for a transaction; changes in one are much faster. Transactions may be nested."""
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
            dataset: The data set.
            partition: Name of the data partition, which is created if it does not exist.
            at: Time of the change; None takes the clock's. It may lie in the past, like a transaction that committed
                late.
            content: Bytes of the file as received; None encodes the data set.

        Raises:
            InstanceExistsError: The instance is already stored.
            InvalidInstanceError: A required attribute is missing, a UID is invalid, or the data set cannot be stored.
            InvalidPartitionError: The partition's name is not valid.
        """
        metadata, dropped = read_metadata(dataset, keep_padding=self.keep_padding, validate=self._validate)
        for tag in (SOP_CLASS_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID, SOP_INSTANCE_UID):
            if not is_uid(first_value(metadata, tag)):
                raise InvalidInstanceError(f"The element {tag} is required and must be a UID.")
        if PATIENT_ID not in metadata:
            raise InvalidInstanceError(f"The element {PATIENT_ID} is required; it may be empty.")
        with self.transaction():
            path = self._next_path(partition) if self._files.root else None
            stored = self._create(metadata, partition, at, path, dropped)
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
        """Store an instance from its metadata; this is fast, and its values are not checked.

        Args:
            metadata: The data set in the DICOM JSON model, stored as given. Entries show trailing blanks of its UIDs
                where the service keeps padding.
            partition: Name of the data partition, which is created if it does not exist.
            at: Time of the change, as in `store`.
            file_path: Path that its entries show; None makes one where the service has a file store.
            write_file: Whether to write a file with the metadata's elements and a drawn picture, where there is a file
                store; `write_missing_files` writes many files faster.

        Raises:
            InstanceExistsError: The instance is already stored.
            InvalidInstanceError: One of the three UIDs is missing.
            InvalidPartitionError: The partition's name is not valid.
        """
        with self.transaction():
            path = file_path or (self._next_path(partition) if self._files.root else None)
            stored = self._create(metadata, partition, at, path)
            if write_file and path is not None and self._files.root is not None:
                self._files.write(path, *encode_files([metadata]))
        return stored

    def write_missing_files(self) -> None:
        """Write a file for each live instance that has a path but no file, as `store_metadata` does."""
        if self._files.root is None:
            return
        with self.transaction():
            paths = self._database.fetch(FILE_PATHS)
            missing = [(key, path) for key, path in paths if not (self._files.root / path).exists()]
            texts = (self._database.fetch(METADATA, {"key": key})[0][0] for key, _ in missing)
            for (_, path), content in zip(missing, encode_files(map(json.loads, texts)), strict=True):
                self._files.write(path, content)

    def delete(
        self,
        study: str,
        series: str | None = None,
        sop_instance: str | None = None,
        *,
        partition: str = DEFAULT_PARTITION,
        at: Moment | None = None,
    ) -> int:
        """Delete a study, a series or an instance; all its changes have one time and show the stored UIDs.

        Trailing blanks of a UID are ignored.

        Returns:
            The number of instances deleted.
        """
        with self.transaction():
            found = self._database.find(partition, study, series, sop_instance)
            ticks = self._ticks(at)
            for live in found:
                self._database.delete(live, ticks)
        for live in found:
            self._files.remove(live.file_path)
            self._files.remove(live.original_file_path)
        return len(found)

    def update(
        self, study: str, changes: Metadata, *, partition: str = DEFAULT_PARTITION, at: Moment | None = None
    ) -> int:
        """Change attributes in every instance of a study.

        Each instance gets an Update entry, a new version, and a new file with a new name. All changes have one time.
        Trailing blanks of the study's UID are ignored in the search; where the service keeps padding, the entries show
        the study's UID as given here.

        Args:
            study: Study instance UID.
            changes: Elements to change, in the DICOM JSON model.
            partition: Name of the data partition.
            at: Time of the changes, as in `store`.

        Returns:
            The number of instances changed.

        Raises:
            InvalidUpdateError: The service does not change one of the attributes, or a value is invalid.
        """
        check_changes(changes)
        with self.transaction():
            found = self._database.find(partition, study)
            ticks = self._ticks(at)
            for live in found:
                path = self._next_path(partition) if live.file_path else None
                changed = dict(sorted({**json.loads(live.metadata), **changes}.items()))
                self._database.update(live, ticks, self._shown(study), _to_text(changed), path)
                if live.file_path and path:
                    self._files.rewrite(live.file_path, path, changes)
        for live in found:
            if live.file_path != live.original_file_path:  # the service keeps the original and the newest file
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
        """Return a page of the feed as JSON objects; members without a value are left out.

        Args:
            start: Start of the window, inclusive; None means the beginning of the feed.
            end: End of the window, exclusive; None means the end of the feed.
            offset: Number of entries to skip.
            limit: Most entries of the page, at least 1.
            include_metadata: Whether entries hold metadata.
            omit_unreadable: Whether to return entries whose metadata has a fault without metadata.

        Raises:
            UnreadableMetadataError: The page holds an instance whose metadata has a fault, of any kind.
        """
        first, last = (None if moment is None else self._ticks(moment) for moment in (start, end))
        page = PageRequest(first, last, offset, limit, include_metadata)
        return [to_entry(row, omit_unreadable=omit_unreadable) for row in self._database.fetch(PAGE, vars(page))]

    def change_feed_texts(self, page: PageRequest) -> list[bytes]:
        """Return the entries of a page, each as the JSON text that is sent; the metadata is copied, not parsed.

        Raises:
            UnreadableMetadataError: The page holds an instance whose metadata has a fault for which the service sends
                no page. With other faults the text contains metadata that clients cannot use.
        """
        return [to_json(row) for row in self._database.fetch(PAGE, vars(page))]

    def latest(self, *, include_metadata: bool = True) -> dict[str, Any] | None:
        """Return the newest entry by timestamp and sequence, or None if the feed is empty.

        Raises:
            UnreadableMetadataError: The entry's metadata has a fault, of any kind.
        """
        rows = self._database.fetch(LATEST, {"include_metadata": include_metadata})
        return to_entry(rows[0]) if rows else None

    def latest_text(self, *, include_metadata: bool = True) -> bytes | None:
        """Return the entry of `latest` as the JSON text that is sent.

        Raises:
            UnreadableMetadataError: The entry's metadata has a fault for which the service sends no page.
        """
        rows = self._database.fetch(LATEST, {"include_metadata": include_metadata})
        return to_json(rows[0]) if rows else None

    def break_metadata(self, which: str | int, fault: Fault = Fault.MISSING, *, partition: str | None = None) -> int:
        """Make the metadata of live instances unreadable until they are healed, deleted or stored anew.

        Args:
            which: SOP instance UID, with or without trailing blanks, or sequence of one of the instance's entries.
            fault: Fault of the metadata from now on.
            partition: Name of the data partition; None means all.

        Returns:
            The number of instances changed.
        """
        return self._database.set_fault(which, partition, Fault(fault))

    def heal_metadata(self, which: str | int | None = None, *, partition: str | None = None) -> int:
        """Make the metadata of live instances readable again.

        Args:
            which: As in `break_metadata`; None heals every instance whose metadata has a fault.
            partition: Name of the data partition; None means all.

        Returns:
            The number of instances changed.
        """
        return self._database.set_fault(which, partition, None)

    def partitions(self) -> list[dict[str, Any]]:
        """Return the data partitions in the order of their creation, as JSON objects."""
        return [
            {"partitionKey": key, "partitionName": name, "createdDate": format_ticks(created)}
            for key, name, created in self._database.fetch("SELECT key, name, created FROM data_partition ORDER BY key")
        ]

    def has_partition(self, name: str) -> bool:
        """Return whether the data partition exists."""
        return name in self._database.partitions

    def instance_count(self) -> int:
        """Return the number of live instances."""
        return int(self._database.fetch("SELECT count(*) FROM instance WHERE version IS NOT NULL")[0][0])

    def change_count(self) -> int:
        """Return the number of entries in the feed."""
        return int(self._database.fetch("SELECT count(*) FROM change")[0][0])

    def _ticks(self, at: Moment | None) -> Ticks:
        if at is None:
            return ticks_now() if self._clock is None else ticks_of(self._clock())
        return at if isinstance(at, int) else ticks_of(at)

    def _next_path(self, partition: str) -> str:
        return self._files.path(partition, self._database.version + 1)

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
        key = self._database.create(partition, self._ticks(at), uids, _to_text(metadata), path)
        if self._faulty_every and key % self._faulty_every == 0:
            fault = self._faults[(key // self._faulty_every - 1) % len(self._faults)]
            self._database.set_fault(self._database.sequence, None, fault)
        sop_class = first_value(metadata, SOP_CLASS_UID)
        return Stored(study, series, sop_instance, sop_class, self._database.sequence, dropped)

    def _shown(self, uid: str) -> str:
        """Return a UID as entries show it."""
        return keep_blanks(uid) if self.keep_padding else strip_padding(uid)


def _to_text(metadata: Metadata) -> str:
    try:
        return json.dumps(metadata, separators=(",", ":"))
    except RecursionError:
        raise InvalidInstanceError("The sequences of the data set are nested too deep.") from None
