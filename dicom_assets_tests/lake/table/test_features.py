"""The allow-list, on tables whose log says what no engine here writes. Real Spark's are in `spark/test_features.py`."""

import json
from pathlib import Path

import pytest

from dicom_assets.core.columns.schema import STUDY
from dicom_assets.core.errors import ForeignTableError
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.log import commit_name
from dicom_assets.lake.upkeep import maintain
from dicom_assets_tests.lakes.building import Wanted, build_lake, read, store, study


@pytest.fixture
def lake(tmp_path) -> Lake:
    lake = build_lake(tmp_path)
    store(lake, study("1"), study("2"))
    return lake


def commit(lake: Lake, *actions: dict) -> None:
    """As another engine would."""
    path = Path(lake.uri(STUDY), commit_name(lake.version(STUDY) + 1))
    path.write_text("\n".join(map(json.dumps, actions)))


def protocol(reader: int, writer: int, readers: list[str] | None = None, writers: list[str] | None = None) -> dict:
    lists = {"readerFeatures": readers, "writerFeatures": writers}
    lists = {name: features for name, features in lists.items() if features is not None}
    return {"protocol": {"minReaderVersion": reader, "minWriterVersion": writer, **lists}}


def metadata(lake: Lake, column: dict | None = None, **properties: str) -> dict:
    log = "\n".join(path.read_text() for path in sorted(Path(lake.uri(STUDY), "_delta_log").glob("*.json")))
    (action,) = (line for line in map(json.loads, log.splitlines()) if "metaData" in line)
    if column is not None:
        schema = json.loads(action["metaData"]["schemaString"])
        schema["fields"].append(column)
        action["metaData"]["schemaString"] = json.dumps(schema)
    action["metaData"]["configuration"] |= {f"delta.{name}": value for name, value in properties.items()}
    return action


def column(name: str, **marks: object) -> dict:
    return {"name": name, "type": "string", "nullable": True, "metadata": marks}


def refusal(lake: Lake) -> str:
    wanted = Wanted([study("2", patientSex="F")])
    with pytest.raises(ForeignTableError) as caught:
        lake.write(STUDY, wanted)
    assert wanted.builds == 0
    return str(caught.value)


@pytest.mark.parametrize(
    "asked",
    [
        protocol(1, 1),
        protocol(1, 6),
        protocol(2, 5),
        protocol(1, 7, None, []),
        protocol(
            1, 7, None,
            ["appendOnly", "invariants", "checkConstraints", "changeDataFeed", "generatedColumns", "identityColumns",
             "allowColumnDefaults", "inCommitTimestamp", "checkpointProtection"],
        ),
        protocol(3, 7, *[["timestampNtz", "columnMapping", "typeWidening"]] * 2),
    ],
)  # fmt: skip
def test_what_could_be_used_and_is_not_is_no_hindrance(lake, asked):
    commit(lake, asked)
    assert store(lake, study("2", patientSex="F")).updated == 1
    assert maintain(lake, STUDY).is_complete
    assert len(read(build_lake(Path(lake.storage.url)))) == 2


@pytest.mark.parametrize("feature", ["somethingNew", "clustering", "icebergCompatV1", "rowTracking"])
def test_writers_feature_is_refused_whatever_it_is_and_reading_goes_on(lake, feature):
    commit(lake, protocol(1, 7, None, [feature]))
    assert feature in refusal(lake)
    assert len(read(lake)) == 2
    with pytest.raises(ForeignTableError, match=feature):
        maintain(lake, STUDY)


@pytest.mark.parametrize("feature", ["somethingNew", "geospatial", "catalogManaged", "deletionVectors", "variantType"])
def test_readers_feature_is_refused_whatever_it_is(lake, feature):
    commit(lake, protocol(3, 7, [feature], [feature]))
    assert feature in refusal(lake)
    with pytest.raises(ForeignTableError, match=feature):
        lake.open(STUDY)
    with pytest.raises(ForeignTableError, match=feature):
        build_lake(Path(lake.storage.url)).open(STUDY)


def test_version_of_the_protocol_that_is_not_known_is_refused(lake):
    commit(lake, protocol(1, 9))
    assert "writer version 9" in refusal(lake)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enableChangeDataFeed", "true"),
        ("enableChangeDataFeed", "TRUE"),
        ("constraints.Positive", "instanceCount > 0"),
        ("coordinatedCommits.commitCoordinator-preview", "dynamodb"),
        ("universalFormat.enabledFormats", "iceberg"),
        ("somethingNew", "true"),
    ],
)
def test_property_that_is_not_known_to_ask_nothing_is_refused(lake, name, value):
    commit(lake, metadata(lake, **{name: value}))
    assert name in refusal(lake)
    assert len(read(lake)) == 2


def test_constraint_is_dropped_by_its_own_name(lake):
    commit(lake, metadata(lake, **{"constraints.Positive": "instanceCount > 0"}))
    assert f"ALTER TABLE delta.`{lake.uri(STUDY)}` DROP CONSTRAINT `Positive`" in refusal(lake)


@pytest.mark.parametrize(
    "marks",
    [
        {"delta.invariants": '{"expression": {"expression": "age > 3"}}'},
        {"delta.generationExpression": "patientName"},
        {"delta.identity.start": 1, "delta.identity.step": 1, "delta.identity.allowExplicitInsert": False},
        {"CURRENT_DEFAULT": "'none'"},
        {"__COLLATIONS": {"age": "ICU.DE"}},
        {"delta.somethingNew": "true"},
    ],
    ids=lambda marks: next(iter(marks)),
)
@pytest.mark.parametrize("place", ["column", "field of a column"])
def test_mark_of_a_column_is_refused_also_inside_another(lake, marks, place):
    field = column("age", **marks)
    if place != "column":
        field = {"name": "more", "type": {"type": "struct", "fields": [field]}, "nullable": True, "metadata": {}}
    commit(lake, metadata(lake, field))
    assert ("column age " if place == "column" else "column more.age ") in refusal(lake)


def test_table_of_another_name_is_said_to_be_movable(lake):
    action = metadata(lake, enableChangeDataFeed="true")
    commit(lake, action)
    assert "DICOM_STUDY_TABLE_PATH" not in refusal(lake)
    action["metaData"]["name"] = None
    commit(lake, action)
    assert "DICOM_STUDY_TABLE_PATH" in refusal(lake)


def test_files_that_lie_elsewhere_are_those_of_a_clone(lake):
    (file,) = lake.open(STUDY).files
    add = {"path": f"file://{lake.uri(STUDY)}/{file.name}", "partitionValues": {}, "size": file.size_bytes,
           "modificationTime": 0, "dataChange": True}  # fmt: skip
    commit(lake, {"add": add}, {"remove": {"path": file.name, "dataChange": True}})
    assert "clone" in refusal(lake)


def test_log_is_left_as_it_is_where_a_feature_or_a_property_protects_it(lake):
    commit(lake, protocol(1, 7, None, ["checkpointProtection"]))
    lake.retention_hours = 0
    for number in range(12):
        store(lake, study(str(number)))
    before = {path.name for path in Path(lake.uri(STUDY), "_delta_log").glob("*.json")}
    assert maintain(lake, STUDY).removed_log_files == 0
    assert {path.name for path in Path(lake.uri(STUDY), "_delta_log").glob("*.json")} >= before
