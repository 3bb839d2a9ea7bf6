from pathlib import Path

import pytest
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from obstore.exceptions import GenericError
from obstore.store import AzureStore, LocalStore

from dicom_assets.adapters.storage import Storage
from dicom_assets.core.errors import LakeUnavailableError

AZURE = "abfss://dicom@account.dfs.core.windows.net"


def test_local_lake_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage = Storage("data/lake")
    assert storage.is_local
    assert storage.uri("silver/study") == str(tmp_path / "data/lake/silver/study")
    assert isinstance(storage.open_store("silver/study"), LocalStore)
    assert (tmp_path / "data/lake/silver/study").is_dir()
    assert (
        storage.open_file(storage.open_store("study"), "study", "a.parquet") == f"{tmp_path}/data/lake/study/a.parquet"
    )


def test_azure_lake_asks_for_its_options_at_every_operation():
    asked = []

    def options():
        asked.append(1)
        return {"account_name": "account", "bearer_token": "hidden"}

    storage = Storage(AZURE + "/", options)
    assert not storage.is_local
    assert storage.uri("silver/study") == AZURE + "/silver/study"
    for count in (1, 2):
        assert isinstance(storage.open_store("silver/study"), AzureStore)
        assert len(asked) == count
    assert "hidden" not in repr(storage)


def test_file_of_a_store_can_be_read_in_ranges(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"0123456789")
    reader = Storage(AZURE).open_file(LocalStore(tmp_path), "study", "a.parquet")
    reader.seek(4)
    assert bytes(reader.read(3)) == b"456"


@pytest.mark.parametrize("error", [OSError("disk full"), DeltaError("no log"), GenericError("refused")])
@pytest.mark.parametrize(
    ("url", "told"), [("/lake", "DICOM_STORAGE_URL names a folder"), (AZURE, '"Storage Blob Data Contributor" role')]
)
def test_refusal_says_what_was_done_where_why_and_what_to_do(error, url, told):
    storage = Storage(url)
    with pytest.raises(LakeUnavailableError) as caught, storage.explained("study", "commit to"):
        raise error
    assert str(caught.value).startswith(f"Could not commit to {url}/study: {error}. Check")
    assert told in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "OSError"), ("first.\n\ntrace of requests", "first"), ("x" * 500, "x" * 200)],
)
def test_reason_is_the_first_line_and_short(text, reason):
    with pytest.raises(LakeUnavailableError) as caught, Storage("/lake").explained("study", "read"):
        raise OSError(text)
    assert f": {reason}. Check" in str(caught.value)
    assert "trace" not in str(caught.value)


@pytest.mark.parametrize("answer", [CommitFailedError("lost"), TableNotFoundError("absent")])
def test_answers_are_no_refusals(answer):
    with pytest.raises(type(answer)) as caught, Storage("/lake").explained("study", "commit to"):
        raise answer
    assert caught.value is answer


def test_other_errors_pass():
    with pytest.raises(KeyError), Storage(str(Path.cwd())).explained("study", "read"):
        raise KeyError
