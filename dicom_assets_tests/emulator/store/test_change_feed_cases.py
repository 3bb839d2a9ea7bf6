"""The public DICOM server's end-to-end cases for its change feed, told anew.

Source: `ChangeFeedTests` of microsoft/dicom-server.
"""

import pytest

from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets_tests.emulator.conftest import metadata_of, minutes


def store(service, instance, minute=0.0):
    service.store_metadata(metadata_of(instance=instance), at=minutes(minute))


def uids(page):
    return [entry["sopInstanceUid"] for entry in page]


def test_instances_are_told_in_the_order_they_were_stored(service, client, feed):
    for number in range(10):
        store(service, f"1.{number}", number)
        if number == 0:
            first = client.get("changefeed/latest").json()
            assert (first["sopInstanceUid"], first["action"], first["state"]) == ("1.0", "Create", "Current")
    page = feed(startTime=first["timestamp"])
    assert uids(page) == [f"1.{number}" for number in range(10)]
    assert all(entry["metadata"] for entry in page)


def test_windows_scope_the_feed(service, feed):
    for instance, minute in ("1", 1), ("2", 1.5), ("3", 1.5), ("4", 3):
        store(service, instance, minute)
    everything = feed(startTime=minutes(1).isoformat())
    assert uids(everything) == ["1", "2", "3", "4"]
    first, second, third, fourth = (entry["timestamp"] for entry in everything)
    assert second == third  # a tie
    assert feed(endTime=first) == []
    assert feed(startTime=second, offset=3) == []
    assert feed(startTime=minutes(3.001).isoformat()) == []
    assert feed(startTime=first, endTime=fourth) == everything[:3]
    for offset in range(3):
        assert feed(startTime=first, endTime=fourth, offset=offset, limit=1) == everything[offset : offset + 1]
    assert feed(startTime=first, endTime=fourth, offset=3, limit=1) == []


def test_deleted_and_replaced_instance(service, client, feed):
    def latest():
        entry = client.get("changefeed/latest").json()
        return entry["action"], entry["state"], "metadata" in entry

    store(service, "1", 0)
    assert latest() == ("Create", "Current", True)
    assert client.delete("studies/1.2/series/1.2.3/instances/1").status_code == 204
    assert latest() == ("Delete", "Deleted", False)
    store(service, "1", 2)
    assert latest() == ("Create", "Current", True)
    assert [entry["state"] for entry in feed()] == ["Replaced", "Replaced", "Current"]


@pytest.mark.parametrize("name", ["includeMetadata", "includemetadata"])
@pytest.mark.parametrize("value", ["false", "False"])
def test_metadata_is_left_out_on_demand(service, client, feed, name, value):
    store(service, "1")
    latest = client.get("changefeed/latest", params={name: value}).json()
    assert "metadata" not in latest
    assert feed(**{name: value}) == [latest]
    assert latest["state"] == "Current"


def test_path_is_told_with_a_file_store_only(service, feed, tmp_path):
    store(service, "1")
    assert "filePath" not in feed()[0]
    with Service(file_store=tmp_path) as with_files, serve(with_files):
        store(with_files, "1")
        assert with_files.latest()["filePath"].startswith("AHDS/contosohealth/dicom/contosoclinic/Microsoft.Default/")


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("foo", "2023-05-03T10:58:00Z"),
        ("2023-05-03T10:58:00Z", "bar"),
        ("2023-05-03T10:58:00", "2023-05-03T11:00:00Z"),
        ("2023-05-03T10:58:00Z", "2023-05-03T11:00:00"),
        ("2023-05-03T10:58:00Z", "2023-05-03T10:58:00Z"),
        ("2023-05-03T10:59:00Z", "2023-05-03T10:58:00Z"),
    ],
)
def test_invalid_times_are_refused(client, start, end):
    assert client.get("changefeed", params={"startTime": start, "endTime": end}).status_code == 400


@pytest.mark.parametrize(
    ("limit", "offset", "include_metadata"),
    [
        ("-1", "0", "true"),
        ("0", "0", "true"),
        ("201", "0", "true"),
        ("blah", "0", "true"),
        ("1", "-1", "true"),
        ("1", "92233720368547758070", "true"),
        ("1", "blah", "true"),
        ("1", "0", "0"),
        ("1", "0", "true-ish"),
        ("1", "0", "boolean"),
        ("1", "0", ""),
    ],
)
def test_invalid_parameters_are_refused(client, limit, offset, include_metadata):
    parameters = {"limit": limit, "offset": offset, "includeMetadata": include_metadata}
    assert client.get("changefeed", params=parameters).status_code == 400


def test_invalid_parameter_of_latest_is_refused(client):
    assert client.get("changefeed/latest", params={"includeMetadata": "asdf"}).status_code == 400


def test_empty_feed(client, feed):
    assert feed() == []
    latest = client.get("changefeed/latest")
    assert (latest.status_code, latest.content) == (204, b"")


def test_defaults_and_limits(service, feed):
    with service.transaction():
        for number in range(205):
            store(service, f"1.{number}")
    assert len(feed()) == 100
    assert len(feed(limit=200)) == 200
    assert len(feed(limit=200, offset=200)) == 5
    assert feed(startTime=" ", endTime="") == feed()


def test_offset_in_time_is_understood_when_it_is_encoded(service, client, feed):
    store(service, "1", 60)
    assert len(feed(startTime="2026-03-01T02:00:00+01:00")) == 1
    assert client.get("changefeed?startTime=2026-03-01T02:00:00+01:00").status_code == 400  # the plus is a space
