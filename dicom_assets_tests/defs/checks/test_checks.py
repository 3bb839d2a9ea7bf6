"""The checks as runs meet them: the service behind a socket, and something else that changes tables in between."""

import gc
import weakref
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from deltalake import DeltaTable, write_deltalake
from starlette.requests import Request
from starlette.responses import Response

from dicom_assets.component import building
from dicom_assets.config.settings import load_settings
from dicom_assets.core.tables.merge import Desired
from dicom_assets.definitions import build_definitions
from dicom_assets.defs.assets.io_manager import DeltaIOManager
from dicom_assets.defs.runs.observed import Observed
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets.emulator.store.unreadable import Fault
from dicom_assets.network.retries import RetryPolicy
from dicom_assets.service import client as dicom_service
from dicom_assets_tests.law.world import environment_of

START = datetime(2026, 3, 1, tzinfo=UTC)
HOURS = 3
MARKER = "ZZPATIENTZZ"
UID = "1.2.276.0.7230010"
"""Root of all UIDs, which no event may hold."""

WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR
Change = Callable[[DeltaTable], object]


def metadata_of(number: int, series: int) -> dict:
    """Study 0 and 1, with the series that are asked for; everything that may tell of a patient bears the marker."""
    study = f"{UID}.{number % 2}"
    texts = ("00081030", "00080050", "00100020", "0008103E")
    return {
        "0020000D": {"vr": "UI", "Value": [study]},
        "0020000E": {"vr": "UI", "Value": [f"{study}.{series}"]},
        "00080018": {"vr": "UI", "Value": [f"{study}.{series}.{number}"]},
        "00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.2"]},
        "00080060": {"vr": "CS", "Value": ["CT"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": MARKER}]},
        **{tag: {"vr": "LO", "Value": [MARKER]} for tag in texts},
    }


class Hospital:
    """A service, a lake, runs of the assets; and whatever else gets at the tables."""

    url: str

    def __init__(self, folder: Path, service: Service) -> None:
        self.folder, self.service = folder, service
        self.after: dict[str, Change] = {}
        """What something else does to a table when its asset was stored, once."""
        self.answer: Callable[[Request], Response | None] = lambda request: None
        self.materialised: list[str] = []
        self.seen: list[str] = []

    def intercept(self, request: Request) -> Response | None:
        return self.answer(request)

    @property
    def settings(self):
        return load_settings(
            {
                **environment_of(self.url, HOURS),
                "DICOM_STORAGE_URL": str(self.folder / "lake"),
                "DICOM_BATCH_SIZE": "3",
            }
        )

    def table(self, name: str) -> DeltaTable:
        return DeltaTable(self.folder / "lake/dicom" / name)

    def store(self, hour: int, numbers: range, series: int | None = None, **more) -> None:
        with self.service.transaction():
            for number in numbers:
                at = START + timedelta(hours=hour, milliseconds=number)
                metadata = metadata_of(number, hour if series is None else series) | more
                self.service.store_metadata(metadata, at=at, file_path=f"AHDS/{number}.dcm")

    def run(
        self, *assets: str, hours: tuple[int, int] = (0, 0), success: bool = True
    ) -> dict[str, dg.AssetCheckEvaluation]:
        """Materialises; what the checks found, by asset and name."""
        job = build_definitions(self.settings).resolve_implicit_global_asset_job_def()
        keys = [(START + timedelta(hours=hour)).strftime("%Y-%m-%d-%H:%M") for hour in hours]
        tags = {f"dagster/asset_partition_range_{end}": key for end, key in zip(("start", "end"), keys, strict=True)}
        how = {"partition_key": keys[0]} if keys[0] == keys[1] else {"tags": tags}
        selection = [dg.AssetKey(name) for name in assets] or None
        with dg.DagsterInstance.ephemeral() as instance:
            result = job.execute_in_process(instance=instance, asset_selection=selection, raise_on_error=False, **how)
            self.seen += [str(event) for event in instance.all_logs(result.run_id)]
        assert result.success == success
        events = result.all_events
        self.materialised = [event.asset_key.path[-1] for event in events if event.is_step_materialization]
        return {f"{each.asset_key.path[-1]}.{each.check_name}": each for each in result.get_asset_check_evaluations()}


@pytest.fixture
def hospital(tmp_path, monkeypatch) -> Iterator[Hospital]:
    """Four instances in hour 0, six in hour 1, none in hour 2: of two studies, a series of each in each hour."""
    quick = RetryPolicy(tries=2, first_wait_seconds=0.001, longest_wait_seconds=0.002)
    monkeypatch.setattr(dicom_service, "RetryPolicy", lambda: quick)
    with Service(seed=1) as service:
        hospital = Hospital(tmp_path, service)
        hospital.store(0, range(4))
        hospital.store(1, range(4, 10))

        class Disturbed(DeltaIOManager):
            def handle_output(self, context, obj) -> None:
                super().handle_output(context, obj)
                name = context.asset_key.path[-1]
                if change := hospital.after.pop(name, None):
                    change(hospital.table(name))

        monkeypatch.setattr(building, "DeltaIOManager", Disturbed)
        with serve(service, intercept=hospital.intercept) as hospital.url:
            yield hospital
    assert hospital.seen
    for text in hospital.seen:
        assert MARKER not in text
        assert UID not in text


def numbers(evaluation: dg.AssetCheckEvaluation) -> dict:
    """What is not zero or empty of a check's metadata."""
    found = {name: value.value for name, value in evaluation.metadata.items() if value.value}
    return {name: value for name, value in found.items() if name not in ("window", "bound")}


def failing(evaluations: dict[str, dg.AssetCheckEvaluation]) -> dict[str, dg.AssetCheckSeverity]:
    return {name: each.severity for name, each in evaluations.items() if not each.passed}


def drop(predicate: str) -> Change:
    return lambda table: table.delete(predicate)


def double(table: DeltaTable) -> None:
    write_deltalake(table, table.to_pyarrow_table().slice(0, 1), mode="append")


def alter(**columns) -> Change:
    def change(table: DeltaTable) -> None:
        row = table.to_pyarrow_table().slice(0, 1).to_pylist()[0] | columns
        write_deltalake(
            table, table.to_pyarrow_table().from_pylist([row], table.to_pyarrow_table().schema), mode="append"
        )

    return change


ALL = {
    "change_feed.feed_complete", "change_feed.metadata_readable",
    "instance.agrees_with_change_feed", "instance.values_converted",
    "series.agrees_with_instance", "study.agrees_with_instance", "file_index.agrees_with_instance",
}  # fmt: skip


@pytest.mark.parametrize("hours", [(0, 0), (2, 2), (0, 2)])
def test_right_runs_pass_every_check_once(hospital, hours):
    evaluations = hospital.run(hours=hours)
    assert evaluations.keys() == ALL
    assert failing(evaluations) == {}
    assert all("window" in each.metadata for each in evaluations.values())


def rows_of(hospital: Hospital, name: str, *columns: str) -> list[dict]:
    return hospital.table(name).to_pyarrow_table(columns=list(columns)).sort_by(columns[0]).to_pylist()


@pytest.mark.parametrize("fault", list(Fault))
def test_instance_whose_metadata_cannot_be_had_holds_nothing_up_and_heals_when_the_hour_is_read_again(hospital, fault):
    broken = f"{UID}.0.0.2"
    assert hospital.service.break_metadata(broken, fault) == 1
    evaluations = hospital.run(hours=(0, 1))
    check = evaluations["change_feed.metadata_readable"]
    assert (check.passed, check.severity) == (False, WARN)
    names = ("sopInstanceUid", "sequence", "modality", "metadataUnreadable")
    (row,) = (row for row in rows_of(hospital, "instance", *names) if row["sopInstanceUid"] == broken)
    assert (row["modality"], row["metadataUnreadable"]) == (None, True)
    assert numbers(check) == {"unreadable": 1, "unreadable_sequences": str(row["sequence"])}
    assert len(rows_of(hospital, "instance", "sopInstanceUid")) == 10
    assert len(rows_of(hospital, "file_index", "sopInstanceUid")) == 10
    assert [row["modality"] for row in rows_of(hospital, "series", "seriesInstanceUid", "modality")] == ["CT"] * 4
    assert {row["modality"] for row in rows_of(hospital, "instance", "sopInstanceUid", "modality")} == {"CT", None}
    hospital.service.heal_metadata()
    evaluations = hospital.run(hours=(0, 0))
    assert evaluations["change_feed.metadata_readable"].passed
    assert {row["modality"] for row in rows_of(hospital, "instance", "sopInstanceUid", "modality")} == {"CT"}


def test_instance_is_one_row_whatever_form_its_uid_has_in_which_entry_and_a_delete_removes_it(tmp_path):
    def padded(number: int, padding: str) -> dict:
        metadata = metadata_of(number, 0)
        for tag in ("0020000D", "0020000E", "00080018"):
            metadata[tag]["Value"] = [metadata[tag]["Value"][0] + padding]
        return metadata | {"00080060": {"vr": "CS", "Value": ["CT\0" if number else "CT "]}}

    with Service(seed=1, keep_padding=True) as service:
        hospital = Hospital(tmp_path, service)
        for number, padding in ((0, " "), (2, ""), (4, "   ")):
            service.store_metadata(padded(number, padding), at=START, file_path=f"AHDS/{number}.dcm")
        service.update(f"{UID}.0", {"00081030": {"vr": "LO", "Value": ["later"]}}, at=START + timedelta(hours=1))
        with serve(service, intercept=hospital.intercept) as hospital.url:
            assert failing(hospital.run(hours=(0, 1))) == {}
            names = [f"{UID}.0.0.{number}" for number in (0, 2, 4)]
            assert [row["sopInstanceUid"] for row in rows_of(hospital, "instance", "sopInstanceUid")] == names
            (study,) = rows_of(hospital, "study", "studyInstanceUid", "instanceCount", "modalitiesInStudy")
            assert study == {"studyInstanceUid": f"{UID}.0", "instanceCount": 3, "modalitiesInStudy": "CT"}
            service.delete(f"{UID}.0  ", f"{UID}.0.0", f"{UID}.0.0.0", at=START + timedelta(hours=2))
            assert failing(hospital.run(hours=(2, 2))) == {}
            assert [row["sopInstanceUid"] for row in rows_of(hospital, "instance", "sopInstanceUid")] == names[1:]
            service.delete(f"{UID}.0 ", at=START + timedelta(hours=2, seconds=1))
            assert failing(hospital.run(hours=(2, 2))) == {}
            for name in ("instance", "series", "study", "file_index"):
                assert rows_of(hospital, name, "studyInstanceUid") == []


def test_audit_asks_again_for_metadata_that_could_not_be_had(hospital):
    for number in (0, 2):
        hospital.service.break_metadata(f"{UID}.0.0.{number}")
    hospital.run(hours=(0, 1))
    audit = build_definitions(hospital.settings).resolve_job_def("audit_lake")
    key = dg.AssetCheckKey(dg.AssetKey("change_feed"), "metadata_readable")

    def run_audit() -> dg.AssetCheckEvaluation:
        with dg.DagsterInstance.ephemeral() as instance:
            assert audit.execute_in_process(instance=instance, raise_on_error=False).success
            found = instance.event_log_storage.get_latest_asset_check_execution_by_key([key])
            hospital.seen.append(str(found[key].event))
            return found[key].event.asset_check_evaluation

    hospital.service.heal_metadata(f"{UID}.0.0.0")
    check = run_audit()
    assert (check.passed, check.severity, check.metadata["healed"].value) == (False, WARN, 1)
    assert check.metadata["unreadable"].value == 1
    hospital.service.delete(f"{UID}.0", f"{UID}.0.0", f"{UID}.0.0.2", at=START + timedelta(hours=2, seconds=1))
    assert run_audit().passed
    assert {row["modality"] for row in rows_of(hospital, "instance", "sopInstanceUid", "modality")} == {"CT"}
    assert len(rows_of(hospital, "instance", "sopInstanceUid")) == 9
    assert sum(row["instanceCount"] for row in rows_of(hospital, "study", "studyInstanceUid", "instanceCount")) == 9
    hospital.service.close()
    assert run_audit().passed  # nothing is missing, so nobody is asked


def test_what_was_derived_is_held_until_it_was_checked_and_no_longer(hospital, monkeypatch):
    held: list[list[bool]] = []
    keys: list[weakref.ref] = []
    take_kept = Observed.take_kept

    def take(observed: Observed) -> Iterator[Desired]:
        held.append([key() is not None for key in keys])
        for desired in take_kept(observed):
            keys.append(weakref.ref(desired.keys))
            yield desired

    monkeypatch.setattr(Observed, "take_kept", take)
    gc.disable()  # which frees what is in cycles some time or other
    try:
        hospital.run(hours=(0, 1))
    finally:
        gc.enable()
    assert len(keys) == 4
    assert held == [[False] * count for count in range(4)]


def test_checks_tell_what_they_counted(hospital):
    evaluations = hospital.run()
    assert {name: numbers(each) for name, each in evaluations.items() if not name.endswith("converted")} == {
        "change_feed.feed_complete": {"stored": 4},
        "change_feed.metadata_readable": {},
        "instance.agrees_with_change_feed": {"rows_expected": 4},
        "series.agrees_with_instance": {"rows_expected": 2},
        "study.agrees_with_instance": {"rows_expected": 2},
        "file_index.agrees_with_instance": {"rows_expected": 4},
    }
    assert evaluations["series.agrees_with_instance"].metadata["window"].value == "2026-03-01 00:00–01:00Z"


def test_assets_one_by_one_in_any_order_warn_at_most(hospital):
    """Nothing blocks and nothing is an error merely because another hour, or another table, was not run yet."""
    found = {}
    for name, hour in [("change_feed", 1), ("change_feed", 0), ("instance", 1), ("study", 0), ("series", 1),
                       ("instance", 0), ("file_index", 0), ("series", 0), ("study", 1), ("file_index", 1)]:  # fmt: skip
        found |= {(check, hour): each for check, each in hospital.run(name, hours=(hour, hour)).items()}
    assert {key: each.severity for key, each in found.items() if not each.passed} == {
        ("file_index.agrees_with_instance", 0): WARN
    }
    behind = found["file_index.agrees_with_instance", 0]
    assert numbers(behind) == {"rows_expected": 10, "missing": 6}
    assert "materialise file_index for the hours for which instance was materialised" in behind.description


@pytest.mark.parametrize(
    ("asset", "change", "check", "found"),
    [
        ("change_feed", drop("filePath = 'AHDS/2.dcm'"), "feed_complete", {"lost": 1, "missing": 1}),
        ("change_feed", double, "feed_complete", {"doubled": 1}),
        ("change_feed", alter(sequence=10**9), "feed_complete", {"vanished": 1, "vanished_sequences": "1000000000"}),
        ("instance", drop("filePath = 'AHDS/2.dcm'"), "agrees_with_change_feed", {"missing": 1}),
        ("instance", double, "agrees_with_change_feed", {"doubled": 1}),
        ("instance", lambda table: table.update({"sequence": "7000"}, predicate="filePath = 'AHDS/2.dcm'"),
         "agrees_with_change_feed", {"different": 1}),
    ],
)  # fmt: skip
def test_table_that_others_are_made_from_blocks_them_when_it_is_wrong(hospital, asset, change, check, found):
    hospital.after[asset] = change
    evaluations = hospital.run(success=False)
    assert failing(evaluations) == {f"{asset}.{check}": ERROR}
    assert found.items() <= numbers(evaluations[f"{asset}.{check}"]).items()
    assert hospital.materialised == ["change_feed", "instance"][: 1 + (asset == "instance")]


@pytest.mark.parametrize(
    ("asset", "change", "found"),
    [
        ("series", drop("studyInstanceUid LIKE '%.0'"), {"missing": 1, "of_these_hours": 1}),
        ("series", double, {"doubled": 1, "of_these_hours": 1}),
        ("series", alter(seriesInstanceUid=f"{UID}.9"), {"orphans": 1}),
        ("series", lambda table: table.update({"instanceCount": "7"}, predicate="studyInstanceUid LIKE '%.0'"),
         {"different": 1, "of_these_hours": 1}),
        ("study", lambda table: table.update({"seriesCount": "7"}, predicate="studyInstanceUid LIKE '%.0'"),
         {"different": 1, "of_these_hours": 1}),
        ("file_index", drop("filePath = 'AHDS/2.dcm'"), {"missing": 1, "of_these_hours": 1}),
        ("file_index", double, {"orphans": 1, "of_these_hours": 1}),
    ],
)  # fmt: skip
def test_last_tables_tell_what_is_wrong_and_block_nothing(hospital, asset, change, found):
    hospital.after[asset] = change
    evaluations = hospital.run()
    name = f"{asset}.agrees_with_instance"
    assert failing(evaluations) == {name: WARN if found == {"orphans": 1} else ERROR}
    assert {key: value for key, value in numbers(evaluations[name]).items() if key != "rows_expected"} == found
    assert len(hospital.materialised) == 5


def test_row_that_is_wrong_since_the_source_moved_is_a_warning(hospital):
    hospital.run("change_feed", "instance", hours=(0, 1))

    def move(table: DeltaTable) -> None:
        hospital.table("instance").delete("filePath = 'AHDS/2.dcm'")

    hospital.after["series"] = move
    evaluations = hospital.run("series")
    assert failing(evaluations) == {"series.agrees_with_instance": WARN}
    assert "will write this table next" in evaluations["series.agrees_with_instance"].description


def test_late_entry_is_a_warning_that_names_it_and_is_gone_when_the_hour_is_read_again(hospital):
    hospital.after["change_feed"] = lambda table: hospital.store(0, range(20, 22), series=0)
    evaluations = hospital.run()
    late = evaluations["change_feed.feed_complete"]
    assert failing(evaluations) == {"change_feed.feed_complete": WARN}
    sequences = {entry["sequence"] for entry in hospital.service.change_feed(limit=100) if "/2" in entry["filePath"]}
    newest = sorted(sequences)[-2:]
    assert numbers(late) == {"stored": 4, "missing": 2, "missing_sequences": ", ".join(map(str, newest))}
    assert late.description.startswith("2 entries arrived after the hours were read")
    assert failing(hospital.run()) == {}


def test_many_sequences_are_named_in_part(hospital):
    hospital.after["change_feed"] = lambda table: hospital.store(0, range(20, 50), series=0)
    named = hospital.run()["change_feed.feed_complete"].metadata["missing_sequences"].value
    assert named.endswith(" and 10 more")
    assert named.count(",") == 19


@pytest.mark.parametrize("status", [503, 403])
def test_service_that_cannot_be_asked_again_is_a_warning_that_says_so(hospital, status):
    def refuse(request: Request) -> Response | None:
        return Response(status_code=status) if request.query_params.get("includeMetadata") == "false" and (
            request.query_params["limit"] == "2"
        ) else None  # fmt: skip

    hospital.answer = refuse
    evaluations = hospital.run()
    assert failing(evaluations) == {"change_feed.feed_complete": WARN}
    description = evaluations["change_feed.feed_complete"].description
    assert f"Change feed request failed: {status}" in description
    hospital.after["change_feed"] = drop("filePath = 'AHDS/2.dcm'")
    assert failing(hospital.run(success=False)) == {"change_feed.feed_complete": ERROR}


def test_lost_entry_of_a_range_is_found_and_its_hour_read_again_heals_it(hospital):
    hospital.after["change_feed"] = drop("filePath = 'AHDS/7.dcm'")
    evaluations = hospital.run(hours=(0, 2), success=False)
    assert numbers(evaluations["change_feed.feed_complete"])["lost"] == 1
    assert failing(hospital.run(hours=(1, 1))) == {}


def test_values_that_cannot_be_converted_or_are_absent_are_a_warning_with_shares(hospital):
    hospital.store(2, range(30, 32), **{"00080020": {"vr": "DA", "Value": [MARKER]}})
    hospital.store(2, range(32, 40), **{"00080060": {"vr": "CS"}})
    evaluations = hospital.run(hours=(2, 2))
    assert failing(evaluations) == {"instance.values_converted": WARN}
    found = evaluations["instance.values_converted"]
    assert found.metadata["failed_shares"].value == {"studyDate": 0.2}
    assert found.metadata["null_shares"].value.items() >= {"modality": 0.8, "studyDate": 1.0, "laterality": 1.0}.items()
    assert "sopClassUid" not in found.metadata["null_shares"].value
    assert "cannot be converted: studyDate." in found.description
    assert "are absent: modality." in found.description


def test_few_values_that_cannot_be_converted_are_within_the_bound(hospital):
    hospital.store(2, range(30, 31), **{"00080020": {"vr": "DA", "Value": [MARKER]}})
    hospital.store(2, range(32, 52))
    evaluations = hospital.run(hours=(2, 2))
    assert failing(evaluations) == {}
    assert evaluations["instance.values_converted"].metadata["failed_shares"].value == {"studyDate": 0.0476}
