"""Tables of a lake held against one another, after something else has changed them."""

import pytest
from deltalake import write_deltalake

from dicom_assets.core.columns.schema import CHANGE_FEED, FILE_INDEX, INSTANCE, SERIES, STUDY, TABLES, Table
from dicom_assets.core.tables.comparison import Agreement
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.derive import agreement
from dicom_assets.derive.agreement import audit, compare_instances, compare_touched, find_disagreeing
from dicom_assets.derive.derivation import InstanceDerivation
from dicom_assets.derive.feed_window import FeedWindow
from dicom_assets.lake.table.delta import Lake
from dicom_assets_tests.core.tables.rows import entry
from dicom_assets_tests.lakes.building import ALL_TABLES, build_lake, store
from dicom_assets_tests.law.world import derivation, hours

EMPTY = {table.name: Agreement() for table in ALL_TABLES}


def change(sequence: int, hour: int, series: str, **columns) -> dict:
    """An entry that creates an instance of its own, with a file."""
    created = entry(3600 * hour + sequence, studyInstanceUid=series[0], seriesInstanceUid=series, filePath="a.dcm")
    return created | {"sopInstanceUid": f"{series}.{sequence}"} | columns


def derive(lake: Lake, hour: int, *names: str) -> None:
    for table in ALL_TABLES[1:]:
        if table.name in (names or [each.name for each in ALL_TABLES]):
            lake.write(table, derivation(lake, table.name, hours(hour)))


@pytest.fixture
def lake(tmp_path) -> Lake:
    """Study 1 with a series in hour 0 and another in hour 1, study 2 in hour 1 without files; all tables right."""
    lake = build_lake(tmp_path)
    store(lake, change(1, 0, "1.1"), change(2, 0, "1.1"), table=CHANGE_FEED)
    store(lake, change(1, 1, "1.2"), change(2, 1, "2.1", filePath=None), table=CHANGE_FEED)
    store(lake, change(3, 1, "2.2"), change(4, 1, "2.2", sopInstanceUid="2.2.3", action="Delete"), table=CHANGE_FEED)
    derive(lake, 0)
    derive(lake, 1)
    return lake


def tear(lake: Lake, table: Table, predicate: str) -> None:
    lake.open(table).connect().delete(predicate)


def double(lake: Lake, table: Table, count: int = 1) -> None:
    write_deltalake(lake.open(table).connect(), lake.open(table).read_table().slice(0, count), mode="append")


def touched(lake: Lake, table: Table, hour: int) -> tuple[Agreement, Agreement]:
    return compare_touched(lake, FeedWindow(lake, hours(hour)).changed_keys(table.key), table)


@pytest.mark.parametrize(("table", "expected"), [(SERIES, 2), (STUDY, 1), (FILE_INDEX, 3)])
def test_tables_that_agree_do_for_the_hours_and_for_their_studies(lake, table, expected):
    own, whole = touched(lake, table, 0)
    assert own.is_complete
    assert whole == Agreement(expected=expected)


@pytest.mark.parametrize("table", [SERIES, STUDY, FILE_INDEX])
def test_a_row_of_the_hour_that_is_missing_is_the_hours_own(lake, table):
    tear(lake, table, "studyInstanceUid = '1'")
    own, whole = touched(lake, table, 0)
    assert 0 < own.missing <= whole.missing
    other_study = lake.open(table).row_count
    assert touched(lake, table, 1)[1].expected - touched(lake, table, 1)[1].missing == other_study


def test_a_row_of_another_hour_that_is_missing_is_not_the_hours_own(lake):
    tear(lake, SERIES, "seriesInstanceUid = '1.2'")
    assert touched(lake, SERIES, 0) == (Agreement(expected=1), Agreement(expected=2, missing=1))
    tear(lake, FILE_INDEX, "seriesInstanceUid = '1.2'")
    assert touched(lake, FILE_INDEX, 0) == (Agreement(expected=2), Agreement(expected=3, missing=1))


def test_files_of_one_series_belong_to_the_hours_in_which_they_changed(lake):
    store(lake, change(9, 2, "1.1"), table=CHANGE_FEED)
    derive(lake, 2, "instance", "series", "study")
    own, whole = touched(lake, FILE_INDEX, 0)
    assert (own, whole.missing) == (Agreement(expected=2), 1)


@pytest.mark.parametrize("table", [SERIES, STUDY])
def test_a_row_without_instances_is_an_orphan(lake, table):
    tear(lake, INSTANCE, "studyInstanceUid = '1'")
    own, whole = touched(lake, table, 0)
    assert (own.expected, own.orphans) == (0, 1)
    assert whole.orphans == {"series": 2, "study": 1}[table.name]


def test_a_wrong_count_is_found(lake):
    tear(lake, INSTANCE, "sopInstanceUid = '1.1.1'")
    for table in (SERIES, STUDY):
        own, _ = touched(lake, table, 0)
        assert own == Agreement(expected=1, different=1)
    own, _ = touched(lake, FILE_INDEX, 0)
    assert own == Agreement(expected=1, orphans=1)


@pytest.mark.parametrize(("table", "found"), [(SERIES, "doubled"), (STUDY, "doubled"), (FILE_INDEX, "orphans")])
def test_a_doubled_row_is_found(lake, table, found):
    double(lake, table)
    assert getattr(touched(lake, table, 0)[1] + touched(lake, table, 1)[1], found) >= 1


def test_files_without_a_path_are_not_expected(lake):
    assert touched(lake, FILE_INDEX, 1)[1] == Agreement(expected=3)
    assert lake.open(INSTANCE).row_count == 4


def test_instances_are_held_against_what_was_derived(lake):
    derived = InstanceDerivation(FeedWindow(lake, hours(1))).build()
    assert compare_instances(lake, derived) == Agreement(expected=2)
    double(lake, INSTANCE, 4)
    assert compare_instances(lake, derived) == Agreement(expected=2, doubled=2)
    tear(lake, INSTANCE, "sopInstanceUid = '2.1.2'")
    assert compare_instances(lake, derived) == Agreement(expected=2, missing=1, doubled=1)


def test_instance_that_ought_to_be_gone_is_an_orphan(lake):
    store(lake, change(8, 1, "2.1", sopInstanceUid="2.1.2", action="Delete"), table=CHANGE_FEED)
    derived = InstanceDerivation(FeedWindow(lake, hours(1))).build()
    assert compare_instances(lake, derived) == Agreement(expected=1, orphans=1)


def test_lake_without_tables_agrees_and_stays_without(tmp_path):
    lake = build_lake(tmp_path)
    assert audit(lake, ALL_TABLES) == EMPTY
    assert touched(lake, SERIES, 0) == (Agreement(), Agreement())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("files_at_once", [1, 25])
def test_audit_of_a_right_lake_sees_every_row_once(lake, files_at_once, monkeypatch):
    monkeypatch.setattr(agreement, "FILES_AT_ONCE", files_at_once)
    assert disagreeing(lake) == {}
    found = audit(lake, ALL_TABLES)
    assert {name: (each.expected, each.faults) for name, each in found.items()} == {
        "change_feed": (6, 0),
        "instance": (4, 0),
        "series": (3, 0),
        "study": (2, 0),
        "file_index": (3, 0),
        "healthcare_instance": (4, 0),
    }
    assert audit(lake) == {table.name: found[table.name] for table in TABLES}


@pytest.mark.parametrize(
    ("table", "predicate", "found"),
    [
        (CHANGE_FEED, "sopInstanceUid = '1.1.1'", {"instance": "orphans", "healthcare_instance": "orphans"}),
        (CHANGE_FEED, "action = 'Delete'", {"instance": "missing", "healthcare_instance": "missing"}),
        (INSTANCE, "sopInstanceUid = '1.1.1'", {
            "instance": "missing", "series": "different", "study": "different", "file_index": "orphans",
        }),
        (SERIES, "seriesInstanceUid = '1.1'", {"series": "missing"}),
        (STUDY, "studyInstanceUid = '2'", {"study": "missing"}),
        (FILE_INDEX, "seriesInstanceUid = '1.2'", {"file_index": "missing"}),
        (HEALTHCARE_INSTANCE, "sopinstanceuid = '1.1.1'", {"healthcare_instance": "missing"}),
    ],
)  # fmt: skip
def test_audit_finds_the_row_that_is_missing(lake, table, predicate, found):
    tear(lake, table, predicate)
    wrong = {name: each for name, each in audit(lake, ALL_TABLES).items() if not each.is_complete}
    assert wrong.keys() == found.keys()
    for name, kind in found.items():
        assert getattr(wrong[name], kind) == wrong[name].faults == 1
    study = "2" if "Delete" in predicate or predicate.endswith("'2'") else "1"
    assert disagreeing(lake) == {name: [study] for name in found}


def disagreeing(lake: Lake) -> dict[str, list[str]]:
    """The studies in which tables disagree, of those that do."""
    return {name: studies.to_pylist() for name, studies in find_disagreeing(lake, ALL_TABLES).items() if len(studies)}


@pytest.mark.parametrize("table", ALL_TABLES)
def test_audit_finds_the_row_that_is_there_twice(lake, table):
    double(lake, table)
    assert not audit(lake, ALL_TABLES)[table.name].is_complete
    assert table.name in disagreeing(lake)


def test_audit_finds_rows_of_a_study_that_no_other_table_knows(lake):
    for table in (CHANGE_FEED, INSTANCE, SERIES, HEALTHCARE_INSTANCE):
        tear(lake, table, f"{table.study} = '2'")
    found = audit(lake, ALL_TABLES)
    assert (found["study"].orphans, found["file_index"].orphans) == (1, 0)
    assert found["instance"].is_complete
    assert disagreeing(lake) == {"study": ["2"]}


def test_audit_finds_a_row_of_the_profile_that_an_older_entry_made(lake):
    store(lake, change(5, 1, "2.1", sopInstanceUid="2.1.2", action="Update"), table=CHANGE_FEED)
    derive(lake, 1, "instance", "series", "study", "file_index")
    wrong = {name: each for name, each in audit(lake, ALL_TABLES).items() if not each.is_complete}
    assert wrong == {"healthcare_instance": Agreement(expected=4, different=1)}
    assert disagreeing(lake) == {"healthcare_instance": ["2"]}
    derive(lake, 1)
    assert disagreeing(lake) == {}


def test_audit_of_a_study_that_the_table_of_the_profile_alone_knows(lake):
    for table in TABLES:
        tear(lake, table, "studyInstanceUid = '2'")
    found = audit(lake, ALL_TABLES)
    assert (found["healthcare_instance"].orphans, found["study"].faults) == (1, 0)
