import io
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from obstore.exceptions import BaseError, GenericError
from obstore.store import AzureStore, LocalStore

from dicom_assets.core.columns.schema import STUDY
from dicom_assets.core.errors import LakeRefusedError, LakeUnavailableError, SettingsError
from dicom_assets.identity.credentials import Authentication
from dicom_assets.identity.tokens import Tokens
from dicom_assets.lake.storage import storage as module
from dicom_assets.lake.storage.storage import STORAGE_SCOPE, Storage, azure_options
from dicom_assets.lake.upkeep import maintain
from dicom_assets_tests.lakes.building import build_lake, read, store, study

AZURE = "abfss://dicom@account.dfs.core.windows.net"


def test_local_lake_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage = Storage("data/lake")
    assert storage.is_local
    assert storage.uri("silver/study") == str(tmp_path / "data/lake/silver/study")
    assert isinstance(storage.open_store("silver/study"), LocalStore)
    assert (tmp_path / "data/lake/silver/study").is_dir()
    file = storage.open_file(storage.open_store("study"), "study", "a.parquet", 10)
    assert file == f"{tmp_path}/data/lake/study/a.parquet"


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


def test_file_of_a_store_is_read_in_ranges(tmp_path):
    rows = pa.table({"a": range(1000), "b": ["x"] * 1000})
    pq.write_table(rows, tmp_path / "a.parquet")
    size = (tmp_path / "a.parquet").stat().st_size
    file = Storage(AZURE).open_file(LocalStore(tmp_path), "study", "a.parquet", size)
    assert pq.ParquetFile(file).read(["a"]).equals(rows.select(["a"]))
    content = (tmp_path / "a.parquet").read_bytes()
    for offset, whence, place in [(4, io.SEEK_SET, 4), (2, io.SEEK_CUR, 9), (-4, io.SEEK_END, size - 4)]:
        assert file.seek(offset, whence) == file.tell() == place
        assert file.read(3) == content[place : place + 3]
    file.seek(0, io.SEEK_END)
    assert file.read(3) == b""


@contextmanager
def silent_once() -> Iterator[tuple[str, Event]]:
    """An account that leaves its first request without an answer until the second one comes, which sets the event."""
    first, second = Event(), Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if first.is_set():
                second.set()
                self.send_error(403)
            first.set()
            second.wait(20)

        do_PUT = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/account", second
        server.shutdown()


@pytest.mark.parametrize(
    "ask",
    [
        lambda storage: obstore.put(storage.open_store("study"), "a.parquet", b"a"),
        lambda storage: obstore.get_range(storage.open_store("study"), "a.parquet", start=0, length=1),
        lambda storage: DeltaTable(storage.address("study")[0], storage_options=storage.address("study")[1]),
    ],
    ids=["write", "read", "open"],
)
def test_requests_to_an_account_take_as_long_as_they_may_and_no_longer(ask, monkeypatch):
    monkeypatch.setattr(module, "REQUEST_SECONDS", 1)
    with silent_once() as (endpoint, asked_again):
        options = {"account_name": "account", "endpoint": endpoint, "allow_http": "true", "sas_token": "sv=1&sig=a"}
        with pytest.raises((OSError, BaseError)):
            ask(Storage(AZURE, lambda: options))
        assert asked_again.is_set()


class Identity:
    def __init__(self) -> None:
        self.scopes: list[str] = []
        self.failure: Exception | None = None

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        self.scopes += scopes
        if self.failure is not None:
            raise self.failure
        return AccessToken("secret", 2**40)


def test_options_of_an_account_hold_a_token_of_the_identity():
    identity = Identity()
    tokens = Tokens(identity, STORAGE_SCOPE)
    for _ in range(3):
        assert azure_options(tokens, "account") == {"account_name": "account", "bearer_token": "secret"}
    assert identity.scopes == ["https://storage.azure.com/.default"]


def test_identity_without_a_token_is_a_lake_out_of_reach():
    identity = Identity()
    identity.failure = ClientAuthenticationError("AADSTS7000222: hidden")
    with pytest.raises(
        LakeUnavailableError, match=r"account account cannot be reached. No token .*AADSTS7000222"
    ) as no:
        azure_options(Tokens(identity, STORAGE_SCOPE, authentication=Authentication.CLIENT_SECRET), "account")
    assert "hidden" not in str(no.value)


@pytest.mark.parametrize(("scheme", "plain"), [("http", {"allow_http": "true"}), ("https", {})])
def test_options_of_an_emulator_name_its_endpoint(scheme, plain):
    endpoint = f"{scheme}://127.0.0.1:1/lake"
    options = azure_options(None, "lake", endpoint, account_key="a2V5")
    assert options == {"account_name": "lake", "endpoint": endpoint, "account_key": "a2V5"} | plain
    assert isinstance(Storage(AZURE, lambda: dict(options)).open_store("study"), AzureStore)


def test_sas_token_may_have_the_question_mark_of_its_url():
    assert azure_options(None, "lake", sas_token="?sv=1&sig=a")["sas_token"] == "sv=1&sig=a"


def test_nobody_signs_in_by_accident():
    with pytest.raises(SettingsError, match=r"DICOM_AUTHENTICATION=none.*AZURE_STORAGE_ACCOUNT_KEY"):
        azure_options(None, "lake")


ERRORS = [OSError("disk full"), DeltaError("no log"), GenericError("refused"), pa.ArrowInvalid("cut")]


@pytest.mark.parametrize("error", ERRORS)
def test_refusal_says_what_was_done_where_why_and_what_to_do(error):
    with pytest.raises(LakeUnavailableError) as caught, Storage("/lake").explained("study", "commit to"):
        raise error
    assert str(caught.value).startswith(f"Could not commit to /lake/study: {error}. Check")
    assert "DICOM_STORAGE_URL names a folder" in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", ERRORS)
def test_refusal_of_an_account_travels_without_the_native_error(error):
    with pytest.raises(LakeUnavailableError) as caught, Storage(AZURE).explained("study", "commit to"):
        raise error
    assert str(caught.value).startswith(f"Could not commit to {AZURE}/study: {error}. Check")
    assert '"Storage Blob Data Contributor" role' in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


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


@pytest.mark.parametrize("name", ["with blank", "h#sh", "wh?t", "größe", "50%", "100% sure", "a&b=c", "[1]{2}"])
def test_lake_in_a_folder_of_any_name_works(tmp_path, name):
    lake = build_lake(tmp_path / name)
    for number in range(12):  # past a checkpoint
        store(lake, study(str(number)))
    other = build_lake(tmp_path / name)
    assert store(other, study("3", patientSex="F")).updated == 1
    assert len(read(other)) == 12
    assert maintain(other, STUDY).is_complete
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_lake_in_a_folder_that_the_library_would_mistake_is_refused_at_once(tmp_path):
    lake = build_lake(tmp_path / "hundred%20pct")
    for attempt in (lambda: lake.open(STUDY), lambda: store(lake, study("1"))):
        with pytest.raises(LakeRefusedError, match=r"%20.*Rename the folder"):
            attempt()
    assert list(tmp_path.iterdir()) == []
