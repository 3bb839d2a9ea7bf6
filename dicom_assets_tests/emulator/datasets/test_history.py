from collections import Counter

import pytest
from pydicom import dcmread

from dicom_assets.emulator.datasets.history import write_history
from dicom_assets.emulator.datasets.sources import bundled_files
from dicom_assets.emulator.metadata.data_set import read_metadata
from dicom_assets.emulator.store.store import Service
from dicom_assets_tests.emulator.conftest import START


def written(seed=0, **arguments):
    with Service() as service:
        history = write_history(service, start=START, instances=800, seed=seed, **arguments)
        return history, service.change_feed(limit=10**6)


@pytest.fixture(scope="module")
def history_and_feed():
    return written(files=list(bundled_files())[:30])


def test_equal_seeds_give_equal_feeds(history_and_feed):
    assert written(files=list(bundled_files())[:30]) == history_and_feed
    assert written(seed=1)[1] != history_and_feed[1]


def test_every_action_and_state_occurs(history_and_feed):
    _, feed = history_and_feed
    occurring = {(entry["action"], entry["state"]) for entry in feed}
    assert {
        ("Create", "Current"),
        ("Create", "Replaced"),
        ("Create", "Deleted"),
        ("Update", "Current"),
        ("Delete", "Deleted"),
        ("Delete", "Replaced"),
    } <= occurring


def test_counts_are_those_of_the_feed(history_and_feed):
    history, feed = history_and_feed
    actions = Counter(entry["action"] for entry in feed)
    assert actions == {"Create": history.created, "Update": history.updated, "Delete": history.deleted}


def test_changes_lie_inside_the_hours_in_both_partitions_with_ties(history_and_feed):
    _, feed = history_and_feed
    timestamps = [entry["timestamp"] for entry in feed]
    assert "2026-03-01T00" <= min(timestamps) < max(timestamps) < "2026-03-02T00"
    assert len({timestamp[:13] for timestamp in timestamps}) > 8
    assert len(set(timestamps)) < len(timestamps)
    assert {entry["partitionName"] for entry in feed} == {"Microsoft.Default", "research"}
    assert any(not timestamp.endswith("0Z") for timestamp in timestamps)  # to 100 ns


def test_progress_is_told_to_the_end():
    told = []
    _, feed = written(hours=2, progress=lambda done, total: told.append((done, total)))
    assert told
    assert told[-1][0] == told[-1][1] <= len(feed)


def test_every_live_instance_has_a_file_of_its_metadata(tmp_path):
    with Service(file_store=tmp_path) as service:
        write_history(service, start=START, instances=100)
        entries = service.change_feed(limit=10**6)
    assert {entry["action"] for entry in entries} == {"Create", "Update", "Delete"}
    live = {entry["filePath"]: entry["metadata"] for entry in entries if "filePath" in entry}
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.dcm")} == set(live)
    for path, metadata in live.items():
        assert read_metadata(dcmread(tmp_path / path)).metadata == metadata
