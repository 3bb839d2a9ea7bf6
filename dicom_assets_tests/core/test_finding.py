from dicom_assets.core.errors import ServiceRefusedError, SettingsError
from dicom_assets.core.finding import Finding, Status


def test_error_is_taken_apart_into_what_was_found_and_what_to_do():
    finding = Finding.of_error("service.feed", ServiceRefusedError("Refused: 403. Grant a role. Wait."))
    assert finding == Finding("service.feed", Status.RED, "Refused: 403", remedy="Grant a role. Wait.")


def test_list_of_problems_stays_whole():
    text = "2 settings cannot be used:\n- A: is wrong. Mend it.\n- B: too"
    assert Finding.of_error("settings", SettingsError(text), Status.YELLOW) == Finding("settings", Status.YELLOW, text)
