"""What the tests do where there is no Azurite."""

import pytest

from dicom_assets_tests.azure import azurite


@pytest.fixture(params=["no Azurite", "no node"])
def _nothing_to_run(request, monkeypatch, tmp_path) -> None:
    if request.param == "no node":
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setattr(azurite, "MAIN", tmp_path / "main.js")


@pytest.mark.usefixtures("_nothing_to_run")
def test_without_an_emulator_its_tests_are_skipped_with_a_reason(monkeypatch):
    monkeypatch.delenv(azurite.REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"No storage emulator: (node|`make azurite`) "):
        azurite.find_node()


@pytest.mark.usefixtures("_nothing_to_run")
def test_where_nothing_may_be_skipped_its_absence_is_a_failure(monkeypatch):
    monkeypatch.setenv(azurite.REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match="REQUIRE_AZURITE=1 lets no test"):
        azurite.find_node()
