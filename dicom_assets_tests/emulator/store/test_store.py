import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread

from dicom_assets.emulator.clock import format_ticks, ticks_of
from dicom_assets.emulator.datasets.sources import synthesize
from dicom_assets.emulator.errors import (
    EmulatorStartError,
    InstanceExistsError,
    InvalidInstanceError,
    InvalidPartitionError,
    InvalidUpdateError,
)
from dicom_assets.emulator.metadata.data_set import build_dataset, encode
from dicom_assets.emulator.store.feed import PageRequest
from dicom_assets.emulator.store.store import Service
from dicom_assets_tests.emulator.conftest import START, metadata_of, minutes, name_in, renamed


def states(service):
    return [(entry["action"], entry["state"]) for entry in service.change_feed()]


def test_entry_has_the_members_of_the_real_feed(service):
    service.store_metadata(metadata_of(), file_path="AHDS/x.dcm", at=ticks_of(START) + 90_000_004)
    assert service.change_feed() == [
        {
            "sequence": service.latest()["sequence"],
            "partitionName": "Microsoft.Default",
            "filePath": "AHDS/x.dcm",
            "studyInstanceUid": "1.2",
            "seriesInstanceUid": "1.2.3",
            "sopInstanceUid": "1.2.3.4",
            "action": "Create",
            "timestamp": "2026-03-01T00:00:09.0000004Z",
            "state": "Current",
            "metadata": metadata_of(),
        }
    ]


def test_members_without_value_are_left_out(service):
    service.store_metadata(metadata_of())
    assert "filePath" not in service.latest()
    assert "metadata" not in service.latest(include_metadata=False)
    assert "metadata" not in service.change_feed(include_metadata=False)[0]


def test_empty_feed(service):
    assert service.change_feed() == []
    assert service.latest() is None


def test_old_create_read_after_update_has_new_metadata_and_path(tmp_path):
    with Service(file_store=tmp_path) as service:
        service.store_metadata(metadata_of())
        old_path = service.latest()["filePath"]
        service.update("1.2", renamed("New^Name"))
        create, update = service.change_feed()
        assert (create["state"], update["state"]) == ("Replaced", "Current")
        assert name_in(create) == name_in(update) == "New^Name"
        assert create["filePath"] == update["filePath"] != old_path


def test_old_create_read_after_delete_is_deleted_without_metadata_and_path(tmp_path):
    with Service(file_store=tmp_path) as service:
        service.store_metadata(metadata_of())
        assert service.delete("1.2") == 1
        assert states(service) == [("Create", "Deleted"), ("Delete", "Deleted")]
        assert all("metadata" not in entry and "filePath" not in entry for entry in service.change_feed())


def test_delete_read_after_store_anew_is_replaced_with_new_metadata(service):
    service.store_metadata(metadata_of())
    service.delete("1.2")
    service.store_metadata(metadata_of(name="Second^One"))
    assert states(service) == [("Create", "Replaced"), ("Delete", "Replaced"), ("Create", "Current")]
    assert [name_in(entry) for entry in service.change_feed()] == ["Second^One"] * 3


def test_update_makes_one_entry_per_instance_of_the_study_at_one_time(service):
    for number in range(3):
        service.store_metadata(metadata_of(series=f"1.{number}", instance=f"2.{number}"))
    service.store_metadata(metadata_of(study="9", instance="9.9"))
    assert service.update("1.2", renamed("New^Name"), at=minutes(5)) == 3
    updates = [entry for entry in service.change_feed() if entry["action"] == "Update"]
    assert [entry["sopInstanceUid"] for entry in updates] == ["2.0", "2.1", "2.2"]
    assert {entry["timestamp"] for entry in updates} == {"2026-03-01T00:05:00.0000000Z"}
    assert name_in(service.change_feed(offset=3, limit=1)[0]) == "Doe^Jo"


def test_update_of_unknown_study_changes_nothing(service):
    assert service.update("1.2", renamed("New^Name")) == 0
    assert service.change_count() == 0


def test_update_of_other_attributes_is_refused_before_anything_changes(service):
    service.store_metadata(metadata_of())
    with pytest.raises(InvalidUpdateError, match="0020000D"):
        service.update("1.2", {"0020000D": {"vr": "UI", "Value": ["9"]}})
    assert service.change_count() == 1


def test_stored_instance_is_never_overwritten(service):
    service.store_metadata(metadata_of())
    with pytest.raises(InstanceExistsError, match="already stored"):
        service.store_metadata(metadata_of(name="Other^Name"))
    assert name_in(service.latest()) == "Doe^Jo"
    assert service.change_count() == 1


def test_same_uids_live_in_two_partitions(service):
    service.store_metadata(metadata_of())
    service.store_metadata(metadata_of(), partition="research")
    assert [entry["partitionName"] for entry in service.change_feed()] == ["Microsoft.Default", "research"]
    assert service.delete("1.2", partition="research") == 1
    assert states(service) == [("Create", "Current"), ("Create", "Deleted"), ("Delete", "Deleted")]
    assert [partition["partitionName"] for partition in service.partitions()] == ["Microsoft.Default", "research"]


def test_unknown_partition_holds_nothing(service):
    service.store_metadata(metadata_of())
    assert service.delete("1.2", partition="nowhere") == 0
    assert service.update("1.2", renamed("New^Name"), partition="nowhere") == 0


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 65])
def test_partition_names_are_checked(service, name):
    with pytest.raises(InvalidPartitionError):
        service.store_metadata(metadata_of(), partition=name)


@pytest.mark.parametrize(("uids", "left"), [(("1",), 1), (("1", "1.1"), 3), (("1", "1.1", "1.1.1"), 4)])
def test_delete_takes_study_series_or_instance(service, uids, left):
    for study, series, instance in ("1", "1.1", "1.1.1"), ("1", "1.1", "1.1.2"), ("1", "1.2", "1.2.1"):
        service.store_metadata(metadata_of(study, series, instance))
    service.store_metadata(metadata_of("1", "1.2", "1.2.2"))
    service.store_metadata(metadata_of("2", "1.1", "1.1.1"))
    assert service.delete(*uids) == 5 - left
    assert service.instance_count() == left
    assert service.delete(*uids) == 0


def test_order_is_timestamp_then_sequence_and_late_commits_go_back_in_time(service):
    for instance, at in ("3", minutes(3)), ("1", minutes(1)), ("2", minutes(2)), ("4", minutes(3)):
        service.store_metadata(metadata_of(instance=instance), at=at)
    assert [entry["sopInstanceUid"] for entry in service.change_feed()] == ["1", "2", "3", "4"]
    assert service.latest()["sopInstanceUid"] == "4"
    sequences = [entry["sequence"] for entry in service.change_feed()]
    assert sequences != sorted(sequences)


def test_window_start_is_inclusive_and_end_exclusive_to_one_tick(service):
    ticks = ticks_of(START)
    for number in range(3):
        service.store_metadata(metadata_of(instance=str(number)), at=ticks + number)
    window = service.change_feed(start=ticks + 1, end=ticks + 2)
    assert [entry["timestamp"] for entry in window] == [format_ticks(ticks + 1)]
    assert len(service.change_feed(start=START, end=minutes(1))) == 3


def test_pages_of_a_window_fit_together(service):
    for metadata in synthesize(50):
        service.store_metadata(metadata, at=START)
    pages = [service.change_feed(offset=offset, limit=20) for offset in (0, 20, 40)]
    assert [len(page) for page in pages] == [20, 20, 10]
    assert [entry for page in pages for entry in page] == service.change_feed()


@pytest.mark.parametrize("arguments", [{"offset": -1}, {"limit": 0}])
def test_impossible_pages_are_refused(service, arguments):
    with pytest.raises(ValueError, match="at least"):
        service.change_feed(**arguments)


def test_json_text_is_the_page(service):
    for metadata in synthesize(30):
        service.store_metadata(metadata)
    service.delete(service.latest()["studyInstanceUid"])
    for include_metadata in (True, False):
        texts = service.change_feed_texts(PageRequest(limit=200, include_metadata=include_metadata))
        assert list(map(json.loads, texts)) == service.change_feed(limit=200, include_metadata=include_metadata)


def test_sequences_are_unique_with_gaps_that_the_seed_fixes():
    def sequences(seed):
        with Service(seed=seed) as service, service.transaction():
            return [service.store_metadata(metadata_of(instance=str(n))).sequence for n in range(1, 400)]

    first = sequences(1)
    assert first == sorted(set(first)) == sequences(1) != sequences(2)
    assert first[-1] > len(first)


def test_clock_tells_the_time(service, clock):
    clock.set(minutes(7))
    service.store_metadata(metadata_of())
    assert service.latest()["timestamp"] == "2026-03-01T00:07:00.0000000Z"


def test_system_clock_is_the_default():
    with Service() as service:
        service.store_metadata(metadata_of())
        assert service.latest()["timestamp"] >= "2026-"


def test_failed_transaction_leaves_nothing(service):
    def fail():
        with service.transaction():
            service.store_metadata(metadata_of(), partition="new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert service.change_count() == 0
    assert not service.has_partition("new")
    service.store_metadata(metadata_of(), partition="new")


def test_refusal_inside_a_transaction_undoes_only_itself(service):
    with service.transaction():
        service.store_metadata(metadata_of())
        with pytest.raises(InstanceExistsError):
            service.store_metadata(metadata_of())
        service.store_metadata(metadata_of(instance="2"))
    assert service.change_count() == 2


def test_threads_share_a_service(service):
    def work(thread):
        for number in range(20):
            service.store_metadata(metadata_of(instance=f"{thread}.{number}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({entry["sequence"] for entry in service.change_feed()}) == 80


def test_state_survives_in_a_file(tmp_path):
    database = tmp_path / "state.db"
    with Service(database, seed=3) as service:
        service.store_metadata(metadata_of(), partition="research")
        service.update("1.2", renamed("New^Name"), partition="research")
        before = service.change_feed()
    with Service(database, seed=3) as service:
        assert service.change_feed() == before
        assert service.delete("1.2", partition="research") == 1
        sequences = [entry["sequence"] for entry in service.change_feed()]
        assert sequences == sorted(set(sequences))
        assert states(service) == [("Create", "Deleted"), ("Update", "Deleted"), ("Delete", "Deleted")]


def test_database_serves_one_process(tmp_path):
    with Service(tmp_path / "state.db"), pytest.raises(EmulatorStartError, match="another process"):
        Service(tmp_path / "state.db")


def test_unusable_database_is_told(tmp_path):
    with pytest.raises(EmulatorStartError, match="folder does not exist"):
        Service(tmp_path / "nowhere" / "state.db")
    (tmp_path / "text.db").write_text("not a database" * 100)
    with pytest.raises(EmulatorStartError, match="no database"):
        Service(tmp_path / "text.db")


def test_file_is_stored_updated_and_deleted_under_the_paths_of_the_feed(tmp_path):
    with Service(file_store=tmp_path, workspace="w", name="s") as service:
        service.store(build_dataset(metadata_of()), partition="research")
        paths = [service.latest()["filePath"]]
        assert paths[0].startswith("AHDS/w/dicom/s/research/")
        assert paths[0].endswith(".dcm")
        assert dcmread(tmp_path / paths[0]).PatientName == "Doe^Jo"
        for name in "Second^Name", "Third^Name":
            service.update("1.2", renamed(name), partition="research")
            paths.append(service.latest()["filePath"])
            assert dcmread(tmp_path / paths[-1]).PatientName == name
        assert [(tmp_path / path).exists() for path in paths] == [True, False, True]  # the original and the newest
        service.delete("1.2", partition="research")
        assert not list(tmp_path.rglob("*.dcm"))


def test_file_is_stored_byte_for_byte_when_its_bytes_are_given(tmp_path):
    content = encode(build_dataset(metadata_of())) + b"\0" * 8
    with Service(file_store=tmp_path) as service:
        service.store(build_dataset(metadata_of()), content=content)
        assert (tmp_path / service.latest()["filePath"]).read_bytes() == content


def test_unreadable_file_is_copied_on_update(tmp_path):
    with Service(file_store=tmp_path) as service:
        service.store(build_dataset(metadata_of()), content=b"not DICOM")
        service.update("1.2", renamed("New^Name"))
        assert (tmp_path / service.latest()["filePath"]).read_bytes() == b"not DICOM"


def test_metadata_alone_gets_a_path_and_a_file_only_on_demand(tmp_path):
    with Service(file_store=tmp_path) as service:
        service.store_metadata(metadata_of())
        assert not (tmp_path / service.latest()["filePath"]).exists()
        service.store_metadata(metadata_of(instance="5"), write_file=True)
        assert dcmread(tmp_path / service.latest()["filePath"]).SOPInstanceUID == "5"


def test_missing_files_are_written_from_the_metadata_of_now(tmp_path):
    with Service(file_store=tmp_path) as service:
        service.store(build_dataset(metadata_of(instance="1")), content=b"as received")
        service.store_metadata(metadata_of("7", "7.1", "7.2"))
        service.store_metadata(metadata_of("8", "8.1", "8.2"))
        service.update("7", renamed("New^Name"))
        corrected = service.latest()["filePath"]
        service.delete("8")
        service.write_missing_files()
        assert dcmread(tmp_path / corrected).PatientName == "New^Name"
        held = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.dcm")}
        assert len(held) == 2
        assert (tmp_path / service.change_feed()[0]["filePath"]).read_bytes() == b"as received"
        service.write_missing_files()
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.dcm")} == held


def test_service_without_a_file_store_writes_no_files(service):
    service.store_metadata(metadata_of(), file_path="AHDS/given.dcm")
    service.write_missing_files()


def test_given_path_moves_on_update_without_a_file_store(service):
    service.store_metadata(metadata_of(), file_path="AHDS/given.dcm")
    service.update("1.2", renamed("New^Name"))
    assert service.latest()["filePath"] not in (None, "AHDS/given.dcm")


@pytest.mark.parametrize("tag", ["00080016", "00080018", "0020000D", "0020000E", "00100020"])
def test_required_attributes(service, tag):
    metadata = metadata_of()
    del metadata[tag]
    with pytest.raises(InvalidInstanceError, match=tag):
        service.store(build_dataset(metadata))


@pytest.mark.parametrize("uid", ["1.2.", "abc", "1" * 65])
def test_uids_are_checked(service, uid):
    dataset = build_dataset(metadata_of())
    dataset["SOPInstanceUID"]._value = uid  # past pydicom's own check
    with pytest.raises(InvalidInstanceError):
        service.store(dataset)


def test_patient_id_may_be_empty(service):
    service.store(build_dataset({**metadata_of(), "00100020": {"vr": "LO"}}))
    assert service.latest()["metadata"]["00100020"] == {"vr": "LO"}


def test_metadata_without_uids_is_refused(service):
    with pytest.raises(InvalidInstanceError):
        service.store_metadata({})


steps = st.lists(st.tuples(st.sampled_from("CUD"), st.sampled_from("ab"), st.integers(0, 5)), max_size=20)


@given(steps)
def test_last_entries_of_any_history_tell_the_live_instances(steps):
    live = {}
    with Service() as service:
        for number, (action, instance, minute) in enumerate(steps):
            if action == "C" and instance not in live:
                service.store_metadata(
                    metadata_of(study=instance, instance=instance, name=str(number)), at=minutes(minute)
                )
                live[instance] = str(number)
            elif action == "U" and service.update(instance, renamed(str(number)), at=minutes(minute)):
                live[instance] = str(number)
            elif action == "D":
                assert service.delete(instance, at=minutes(minute)) == (live.pop(instance, None) is not None)
        by_sequence = sorted(service.change_feed(), key=lambda entry: entry["sequence"])
        last = {entry["sopInstanceUid"]: entry for entry in by_sequence}
        assert {uid: name_in(entry) for uid, entry in last.items() if entry["action"] != "Delete"} == live
        for entry in by_sequence:
            uid = entry["sopInstanceUid"]
            assert entry["state"] == ("Deleted" if uid not in live else "Current" if entry is last[uid] else "Replaced")
            assert ("metadata" in entry) == (uid in live)
