"""Instances whose metadata the service cannot give out, as clients meet them."""

import msgspec
import pytest

from dicom_assets.emulator.store.store import Service
from dicom_assets.emulator.store.unreadable import Fault, UnreadableMetadataError
from dicom_assets_tests.emulator.conftest import metadata_of, renamed

PAGE_COMES = [Fault.SURROGATE, Fault.UTF8, Fault.NESTED, Fault.NO_OBJECT]


def is_object(page):
    """Whether the metadata of the third entry of a page is an object that a strict parser takes."""
    try:
        return isinstance(msgspec.json.decode(page)[2]["metadata"], dict)
    except (msgspec.DecodeError, RecursionError):
        return False


@pytest.fixture
def filled(service):
    for number in range(5):
        service.store_metadata(metadata_of(instance=f"1.{number}"))
    return service


@pytest.mark.parametrize(("fault", "status"), [(Fault.MISSING, 500), (Fault.MALFORMED, 400)])
def test_page_with_the_instance_does_not_come_until_it_is_healed(filled, client, feed, fault, status):
    whole = feed()
    assert filled.break_metadata("1.2", fault) == 1
    for _ in range(2):
        assert client.get("changefeed").status_code == status
    assert client.get("changefeed", params={"offset": 2, "limit": 1}).status_code == status
    assert feed(limit=2) + feed(offset=3) == whole[:2] + whole[3:]
    assert [entry["sopInstanceUid"] for entry in feed(includeMetadata=False)] == [f"1.{n}" for n in range(5)]
    assert filled.heal_metadata("1.2 ") == 1
    assert feed() == whole


@pytest.mark.parametrize("fault", PAGE_COMES)
def test_page_comes_with_metadata_that_is_no_usable_json(filled, client, feed, fault):
    whole = feed()
    filled.break_metadata(whole[2]["sequence"], fault)
    response = client.get("changefeed")
    assert response.status_code == 200
    assert client.get("changefeed", params={"offset": 2, "limit": 1}).content[1:-1] in response.content
    assert not is_object(response.content)
    assert feed(limit=2) + feed(offset=3) == whole[:2] + whole[3:]
    assert "metadata" not in feed(includeMetadata=False)[2]
    filled.heal_metadata(whole[2]["sequence"])
    assert feed() == whole


def test_all_entries_of_a_broken_instance_are_broken(filled, client):
    filled.update("1.2", renamed("New^Name"))
    filled.break_metadata("1.4")
    unreadable = []
    for offset in range(10):
        response = client.get("changefeed", params={"offset": offset, "limit": 1})
        if response.status_code == 500:
            unreadable.append(offset)
    assert unreadable == [4, 9]


def test_deleted_instance_spoils_no_page_and_is_readable_when_stored_anew(filled, feed):
    filled.break_metadata("1.2")
    filled.delete("1.2", "1.2.3", "1.2")
    assert len(feed()) == 6
    filled.store_metadata(metadata_of(instance="1.2"))
    assert all("metadata" in entry for entry in feed())


def test_instance_stays_broken_after_an_update(filled, client):
    filled.break_metadata("1.2")
    filled.update("1.2", renamed("New^Name"))
    assert client.get("changefeed").status_code == 500
    filled.heal_metadata()
    assert client.get("changefeed").status_code == 200


@pytest.mark.parametrize("fault", Fault)
def test_python_gives_other_entries_or_says_so(filled, fault):
    filled.break_metadata("1.2", fault)
    with pytest.raises(UnreadableMetadataError) as caught:
        filled.change_feed()
    assert caught.value.fault is fault
    page = filled.change_feed(omit_unreadable=True)
    assert ["metadata" in entry for entry in page] == [True, True, False, True, True]


def test_newest_entry_cannot_be_had_either(filled, client):
    filled.break_metadata("1.4", Fault.MALFORMED)
    assert client.get("changefeed/latest").status_code == 400
    assert client.get("changefeed/latest", params={"includeMetadata": False}).json()["sopInstanceUid"] == "1.4"
    filled.break_metadata("1.4", Fault.NO_OBJECT)
    assert client.get("changefeed/latest").json()["metadata"] == "metadata"


def test_one_partition_may_be_meant(service):
    for partition in ("a", "b"):
        service.store_metadata(metadata_of(), partition=partition)
    assert service.break_metadata("1.2.3.4", partition="b") == 1
    assert ["metadata" in entry for entry in service.change_feed(omit_unreadable=True)] == [True, False]
    assert service.break_metadata("1.2.3.4") == 2
    assert service.break_metadata("1.2.3.4", partition="c") == service.break_metadata("9") == 0


def test_chosen_share_is_the_same_each_time_and_faults_take_turns(tmp_path):
    def read(path):
        faults = (Fault.MISSING, Fault.MALFORMED)
        with Service(path, faulty_every=3, faults=faults) as service:
            if not service.change_count():
                for number in range(12):
                    service.store_metadata(metadata_of(instance=f"1.{number}"))
            seen = []
            for offset in range(12):
                try:
                    service.change_feed(offset=offset, limit=1)
                except UnreadableMetadataError as error:
                    seen.append((offset, error.status_code))
            return seen

    expected = [(2, 500), (5, 400), (8, 500), (11, 400)]
    assert read(None) == read(tmp_path / "state.db") == read(tmp_path / "state.db") == expected
