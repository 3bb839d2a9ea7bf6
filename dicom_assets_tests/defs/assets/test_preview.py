import pytest

from dicom_assets.core.columns.schema import TABLES
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.defs.assets.preview import COLUMNS, build_preview
from dicom_assets_tests.core.tables.rows import build_entries, build_instance_rows, build_rows, entry, instance
from dicom_assets_tests.lakes.building import study

BY_NAME = {table.name: table for table in (*TABLES, HEALTHCARE_INSTANCE)}


def test_only_what_tells_nothing_about_a_patient_is_shown():
    shown = {name for columns in COLUMNS.values() for name in columns}
    assert shown == {
        "sequence", "timestamp", "lastModifiedTimestamp", "action", "state", "modality", "modalitiesInStudy",
        "seriesCount", "instanceCount", "numberOfFrames", "rows", "columns",
    }  # fmt: skip
    assert COLUMNS.keys() == BY_NAME.keys()
    for name, columns in COLUMNS.items():
        assert set(columns) <= set(BY_NAME[name].schema.names)


def test_rows_are_shown_as_a_table():
    preview = build_preview(
        "study", build_rows([study("1", modalitiesInStudy="CT\\SR", instanceCount=7)], BY_NAME["study"])
    )
    assert preview.value.splitlines() == [
        "| lastModifiedTimestamp | modalitiesInStudy | seriesCount | instanceCount |",
        "| --- | --- | --- | --- |",
        "| 2026-03-01 00:00:00Z | CT, SR | 1 | 7 |",
    ]


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        ("instance", build_instance_rows(instance(modality="DOE^JANE", patientName="DOE^JANE"))),
        ("change_feed", build_entries(entry(action="DOE^JANE", state="DOE^JANE", metadata={"00100010": "DOE^JANE"}))),
    ],
)
def test_text_that_is_no_word_of_the_standard_is_not_shown(table, rows):
    preview = build_preview(table, rows).value
    assert "DOE" not in preview
    assert "(other)" in preview


def test_nothing_is_shown_of_no_rows_or_of_another_table():
    assert build_preview("study", build_rows([], BY_NAME["study"])) is None
    assert build_preview("reports", build_rows([study("1")], BY_NAME["study"])) is None
