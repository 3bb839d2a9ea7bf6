"""Padding of UIDs and values, as the real service keeps it."""

import sqlite3
from datetime import UTC, datetime

import httpx
import pytest
from pydicom.dataset import Dataset

from dicom_assets.emulator.datasets.history import write_history
from dicom_assets.emulator.datasets.sources import pad_metadata, synthesize
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.metadata.data_set import build_dataset, encode, first_value, read_dataset, read_metadata
from dicom_assets.emulator.metadata.padding import restore_padding
from dicom_assets.emulator.store.store import Service
from dicom_assets_tests.emulator.conftest import metadata_of, name_in, renamed
from dicom_assets_tests.processes import PATIENCE_SECONDS

START = datetime(2026, 3, 1, tzinfo=UTC)
UIDS = ("studyInstanceUid", "seriesInstanceUid", "sopInstanceUid")


@pytest.fixture
def padded():
    with Service(keep_padding=True) as service:
        yield service


@pytest.fixture
def client(padded):
    with serve(padded) as url, httpx.Client(base_url=f"{url}/v2/", timeout=PATIENCE_SECONDS) as client:
        yield client


def entries(service):
    return [(entry["action"], *(entry[name] for name in UIDS)) for entry in service.change_feed()]


def test_entries_show_stored_uids_and_an_updates_study_as_requested(padded):
    padded.store_metadata(metadata_of("1.2  ", "1.3", "1.4 "))
    assert padded.update("1.2 ", renamed("New^Name")) == 1
    assert padded.update("1.2", renamed("Newer^Name")) == 1
    assert padded.delete("1.2", "1.3 ", "1.4") == 1
    assert entries(padded) == [
        ("Create", "1.2  ", "1.3", "1.4 "),
        ("Update", "1.2 ", "1.3", "1.4 "),
        ("Update", "1.2", "1.3", "1.4 "),
        ("Delete", "1.2  ", "1.3", "1.4 "),
    ]


def test_instance_stored_anew_under_another_form_is_one_instance(padded):
    padded.store_metadata(metadata_of(instance="1.4 "))
    padded.delete("1.2")
    padded.store_metadata(metadata_of(instance="1.4"))
    assert [entry["state"] for entry in padded.change_feed()] == ["Replaced", "Replaced", "Current"]
    assert [uids[-1] for uids in entries(padded)] == ["1.4 ", "1.4 ", "1.4"]
    assert padded.instance_count() == 1


def test_other_form_of_a_stored_uid_exists_already(client):
    def store(uid):
        content = encode(build_dataset(metadata_of(instance=uid)))
        return client.post("studies/1.2%20", content=content, headers={"Content-Type": "application/dicom"})

    response = store("1.4 ")
    assert response.status_code == 200
    item = response.json()["00081199"]["Value"][0]
    assert item["00081155"]["Value"] == ["1.4 "]
    assert item["00081190"]["Value"][0].endswith("/1.4%20")
    assert store("1.4").status_code == 409


def test_padded_uids_in_requests(client, padded):
    padded.store_metadata(metadata_of())
    body = {"studyInstanceUids": ["1.2 "], "changeDataset": renamed("New^Name")}
    assert client.post("studies/$bulkUpdate", json=body).status_code == 202
    assert name_in(padded.latest()) == "New^Name"
    assert client.delete("studies/1.2%20%20/series/1.2.3%20").status_code == 204
    assert client.delete("studies/1.2%00").status_code == 400
    assert [uids[1] for uids in entries(padded)] == ["1.2", "1.2 ", "1.2"]


def test_padding_is_cut_off_by_default(service):
    service.store_metadata(metadata_of("1.2 ", "1.3 ", "1.4 "))
    assert service.update("1.2 ", renamed("New^Name")) == 1
    assert service.delete("1.2 ") == 1
    assert {uids[1:] for uids in entries(service)} == {("1.2", "1.3", "1.4")}


def test_nuls_are_never_part_of_a_uid(padded):
    padded.store_metadata(metadata_of(instance="1.4 \0"))
    assert entries(padded)[0][-1] == "1.4 "


def test_metadata_keeps_nuls_and_loses_blanks(padded):
    content = encode(build_dataset(metadata_of())).replace(b"LO\x02\x00P1", b"LO\x06\x00P1 \0\0 ")
    content = content.replace(b"PN\x06\x00Doe^Jo", b"PN\x08\x00Doe^Jo\0\0")
    padded.store(read_dataset(content))
    metadata = padded.latest()["metadata"]
    assert metadata["00100020"]["Value"] == ["P1 \0\0"]
    assert metadata["00100010"]["Value"] == [{"Alphabetic": "Doe^Jo\0\0"}]
    assert read_metadata(read_dataset(content)).metadata == metadata_of()


@pytest.mark.parametrize(
    ("element", "content", "values"),
    [
        ({"vr": "DA", "Value": ["20260301"]}, b"20260301\0\0", ["20260301\0\0"]),
        ({"vr": "IS", "Value": [7]}, b" 7\0", ["7\0"]),
        ({"vr": "IS", "Value": [7]}, b"7 ", [7]),
        ({"vr": "CS", "Value": ["A", "B"]}, b"A\0\\B ", ["A\0", "B"]),
        ({"vr": "UI", "Value": ["1.2"]}, b"1.2 ", ["1.2 "]),
        ({"vr": "UI", "Value": ["1.2"]}, b"1.2\0", ["1.2"]),
        ({"vr": "LO"}, b"\0\0", ["\0\0"]),
        ({"vr": "LO"}, b"  ", None),
        ({"vr": "PN"}, b"\0\0", [{"Alphabetic": "\0\0"}]),
        ({"vr": "PN", "Value": [{"Alphabetic": "A"}, None]}, b"A\\\0", [{"Alphabetic": "A"}, {"Alphabetic": "\0"}]),
        (
            {"vr": "PN", "Value": [{"Alphabetic": "A", "Phonetic": "C"}]},
            b"A==C\0",
            [{"Alphabetic": "A", "Phonetic": "C\0"}],
        ),
        ({"vr": "LT", "Value": ["a\\b"]}, b"a\\b\0", ["a\\b\0"]),
        ({"vr": "LO", "Value": ["x"]}, b"\x83\\\0", ["x\0"]),
        ({"vr": "US", "Value": [0]}, b"\0\0", [0]),
    ],
)
def test_padding_by_value_representation(element, content, values):
    assert restore_padding(element, content).get("Value") == values


def test_padding_is_kept_inside_sequences():
    item, dataset = Dataset(), Dataset()
    item.CodeValue = "1"
    dataset.ConceptNameCodeSequence = [item]
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.PatientID = "1.2", "1.3", "P1"
    content = encode(dataset).replace(b"1 ", b"1\0")
    metadata = read_metadata(read_dataset(content), keep_padding=True).metadata
    assert metadata["0040A043"]["Value"][0]["00080100"]["Value"] == ["1\0"]


def test_made_up_padding_is_fixed_by_the_seed_and_changes_no_identity(padded):
    import random

    made = list(synthesize(100))
    first = [pad_metadata(metadata, random.Random(1)) for metadata in made]
    assert first == [pad_metadata(metadata, random.Random(1)) for metadata in made]
    assert first != made
    for metadata, padded_one in zip(made, first, strict=True):
        padded.store_metadata(padded_one)
        for tag in ("0020000D", "0020000E", "00080018"):
            assert first_value(padded_one, tag) == first_value(metadata, tag)
        build_dataset(padded_one)


def test_history_of_a_service_that_keeps_padding_has_uids_in_several_forms(padded, tmp_path):
    write_history(padded, start=START, hours=12, instances=400)
    forms = {}
    for entry in padded.change_feed(limit=10**6):
        key = tuple(entry[name].rstrip() for name in UIDS)
        forms.setdefault(key, set()).add(tuple(entry[name] for name in UIDS))
    assert max(map(len, forms.values())) > 1
    assert {padding for seen in forms.values() for uids in seen for padding in [uids[0].count(" ")]} == {0, 1, 2}
    with Service(keep_padding=True, file_store=tmp_path) as again:
        write_history(again, start=START, hours=12, instances=400)
        assert [e["studyInstanceUid"] for e in again.change_feed()] == [
            e["studyInstanceUid"] for e in padded.change_feed()
        ]


def test_database_of_an_earlier_version_is_taken_over(tmp_path):
    path = tmp_path / "state.db"
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.executescript(
            """
            CREATE TABLE data_partition (key INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, created INTEGER NOT NULL);
            CREATE TABLE instance (
                key INTEGER PRIMARY KEY, partition INTEGER NOT NULL REFERENCES data_partition (key),
                study TEXT NOT NULL, series TEXT NOT NULL, sop_instance TEXT NOT NULL, version INTEGER,
                metadata TEXT, file_path TEXT, original_file_path TEXT,
                UNIQUE (partition, study, series, sop_instance));
            CREATE TABLE change (
                sequence INTEGER PRIMARY KEY, ticks INTEGER NOT NULL, action INTEGER NOT NULL,
                instance INTEGER NOT NULL REFERENCES instance (key), version INTEGER NOT NULL);
            CREATE INDEX change_by_time ON change (ticks, sequence);
            INSERT INTO data_partition VALUES (1, 'Microsoft.Default', 5);
            INSERT INTO instance VALUES (1, 1, '1.2', '1.3', '1.4', 2, '{}', NULL, NULL);
            INSERT INTO change VALUES (7, 10, 0, 1, 1), (9, 20, 2, 1, 2);
            """
        )
    connection.close()
    for _ in range(2):
        with Service(path, keep_padding=True) as service:
            assert entries(service)[:2] == [("Create", "1.2", "1.3", "1.4"), ("Update", "1.2", "1.3", "1.4")]
            assert [entry["sequence"] for entry in service.change_feed()][:2] == [7, 9]
            service.delete("1.2 ")
            assert entries(service)[2:] == [("Delete", "1.2", "1.3", "1.4")]
