"""The engine that merges, seen by the doctor."""

import socket

from pyspark.sql import SparkSession

from dicom_assets.core.finding import Status


def test_default_engine_needs_nothing(ward):
    found = ward.examine("engine")["engine.merge"]
    assert (found.status, found.found) == (Status.GREEN, "Rows are merged by delta-rs, in the run itself")


def test_spark_that_merges_is_green_and_nothing_is_left_behind(ward, spark_url):
    ward.env |= {"DICOM_MERGE_ENGINE": "spark", "DICOM_SPARK_REMOTE": f"{spark_url}/"}
    before = sorted(ward.folder.rglob("*"))
    found = ward.examine("engine")["engine.merge"]
    assert found.status is Status.GREEN, found
    assert found.facts == {"spark": "4.2.0", "rows": 1}
    assert sorted(ward.folder.rglob("*")) == before


def test_spark_that_is_not_there_is_red_and_its_token_not_shown(ward):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        ward.env |= {"DICOM_MERGE_ENGINE": "spark", "DICOM_SPARK_REMOTE": f"sc://127.0.0.1:{port}/;token=hidden"}
        found = ward.examine("engine")["engine.merge"]
    assert found.status is Status.RED
    assert found.found.startswith(f"Spark was not reached at sc://127.0.0.1:{port}")
    assert "DICOM_SPARK_REMOTE" in found.remedy
    assert "hidden" not in repr(found)


def test_without_an_address_the_ways_to_name_one_are_told(ward, monkeypatch):
    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)
    ward.env["DICOM_MERGE_ENGINE"] = "spark"
    found = ward.examine("engine")["engine.merge"]
    assert found.status is Status.RED
    assert "sc://HOST:15002" in found.remedy
