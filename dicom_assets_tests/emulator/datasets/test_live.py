import threading
from collections import Counter
from datetime import date, timedelta

import pytest
from pydicom import dcmread

from dicom_assets.emulator.datasets.live import Producer, producing
from dicom_assets.emulator.metadata.data_set import read_metadata
from dicom_assets.emulator.store.store import Service
from dicom_assets_tests.emulator.conftest import START
from dicom_assets_tests.processes import PATIENCE_SECONDS

DAY = date(2026, 3, 1)


def worked(acts=60, seed=0):
    """What a producer said, and the feed that it made."""
    with Service(clock=lambda: START) as service:
        producer = Producer(service, seed=seed)
        said = [producer.act(DAY) for _ in range(acts)]
        return said, service.change_feed(limit=10**6)


def test_equal_seeds_do_equal_things():
    assert worked(acts=20) == worked(acts=20)
    assert worked(acts=20) != worked(acts=20, seed=1)


def test_studies_arrive_are_corrected_deleted_and_stored_again():
    said, feed = worked()
    assert {entry["action"] for entry in feed} == {"Create", "Update", "Delete"}
    assert {entry["partitionName"] for entry in feed} == {"Microsoft.Default", "research"}
    kinds = Counter(what.split(",")[0].split(" ", 1)[1] for what in said)
    assert kinds["study stored"] > kinds["corrected"] > 0
    assert kinds["deleted"] > 0
    assert kinds["instances stored again"] > 0
    creates = Counter(entry["sopInstanceUid"] for entry in feed if entry["action"] == "Create")
    assert max(creates.values()) >= 2


def test_what_is_said_tells_nothing_of_a_patient():
    said, feed = worked()
    words = " ".join(said)
    for entry in feed:
        assert entry["studyInstanceUid"] not in words
        for tag in ("00100010", "00100020"):
            for value in entry.get("metadata", {}).get(tag, {}).get("Value", ()):
                assert (value["Alphabetic"] if isinstance(value, dict) else value) not in words


def test_service_that_is_opened_again_gets_new_studies(tmp_path):
    studies = []
    for _ in range(2):
        with Service(tmp_path / "state.db") as service:
            Producer(service).act(DAY)
            studies.append({entry["studyInstanceUid"] for entry in service.change_feed(limit=1000)})
    assert studies[0] < studies[1]


def test_files_follow_the_changes(tmp_path):
    with Service(clock=lambda: START, file_store=tmp_path) as service:
        producer = Producer(service)
        said = " ".join(producer.act(DAY) for _ in range(15))
        assert "corrected" in said
        assert "deleted" in said
        for entry in service.change_feed(limit=10**6):
            if "filePath" in entry:
                dataset = dcmread(tmp_path / entry["filePath"])
                assert read_metadata(dataset).metadata == entry["metadata"]
                assert dataset.Modality == "SR" or dataset.pixel_array.any()


def test_producer_acts_in_the_background_until_it_is_stopped():
    with Service() as service:
        acted = threading.Semaphore(0)
        told = []

        def tell(when, what):
            told.append((when, what))
            acted.release()

        with producing(Producer(service), per_minute=60_000, tell=tell):
            assert all(acted.acquire(timeout=PATIENCE_SECONDS) for _ in range(3))
        count = service.change_count()
        assert count >= len(told) >= 3
        assert all(when.utcoffset() == timedelta(0) for when, _ in told)
        assert not [thread for thread in threading.enumerate() if thread.name == "dicom-producer"]


def test_pace_of_nought_changes_nothing():
    with Service() as service, producing(Producer(service), per_minute=0, tell=pytest.fail):
        assert service.change_count() == 0
