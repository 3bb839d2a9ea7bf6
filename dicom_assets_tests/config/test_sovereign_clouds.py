"""Clouds with hosts of their own: nothing but settings leads there."""

import base64
import socket
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import obstore
import pytest

from dicom_assets.config.connections import build_identity
from dicom_assets.config.settings import load_settings
from dicom_assets.core.columns.schema import INSTANCE
from dicom_assets.fabric.wanted import build_table_shortcuts
from dicom_assets.lake.storage.storage import Storage
from dicom_assets.lake.table.delta import Lake

KEY = {"account_name": "acc", "account_key": base64.b64encode(b"key").decode()}


class AskedError(BaseException):
    """Passes every retry."""


@pytest.mark.parametrize("host", ["login.microsoftonline.us", "login.chinacloudapi.cn"])
@pytest.mark.parametrize("authentication", ["client_secret", "workload_identity"])
def test_tokens_come_from_the_clouds_own_authority(authentication, host, monkeypatch, tmp_path):
    asked = []

    def resolve(name, *_):
        asked.append(name)
        raise AskedError

    (tmp_path / "token").write_text("federated")
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
    settings = {
        "DICOM_AUTHENTICATION": authentication,
        "AZURE_AUTHORITY_HOST": f"https://{host}",
        "AZURE_TENANT_ID": "25bac802-080d-4f73-8a42-1b406eb1fceb",
        "AZURE_CLIENT_ID": "25bac802-080d-4f73-8a42-1b406eb1fceb",
        "AZURE_CLIENT_SECRET": "secret",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    credential = build_identity(load_settings())
    with pytest.raises(AskedError):
        credential.get_token("https://dicom.healthcareapis.azure.com/.default")
    assert asked == [host]


@pytest.mark.parametrize(
    ("account", "host"),
    [
        ("https://acc.dfs.core.usgovcloudapi.net", "acc.blob.core.usgovcloudapi.net"),
        ("https://acc.dfs.core.chinacloudapi.cn", "acc.blob.core.chinacloudapi.cn"),
        ("https://acc.dfs.core.windows.net", "acc.blob.core.windows.net"),
    ],
)
def test_files_lie_at_the_clouds_own_host(account, host):
    settings = load_settings({"DICOM_STORAGE_URL": account})
    storage = Storage(settings.lake_url, lambda: KEY)
    signed = obstore.sign(storage.open_store("silver/instance"), "GET", "a.parquet", expires_in=timedelta(hours=1))
    assert urlsplit(signed)[:3] == ("https", host, "/dicom/silver/instance/a.parquet")
    assert storage.uri("instance") == f"abfss://dicom@{urlsplit(account).hostname}/instance"  # what people are told


def test_tables_are_looked_for_where_their_files_lie():
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = (
                b"<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>" if "comp=list" in self.path else b""
            )
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        endpoint = {"endpoint": f"http://127.0.0.1:{server.server_port}/acc", "allow_http": "true"}
        lake = Lake(
            Storage("abfss://dicom@acc.dfs.core.chinacloudapi.cn", lambda: KEY | endpoint), {"instance": "silver/i"}
        )
        assert lake.open(INSTANCE) is None
        server.shutdown()
    assert asked
    assert all(urlsplit(path).path.startswith("/acc/dicom") for path in asked)
    assert any("silver/i" in path for path in asked)


def test_shortcuts_name_the_clouds_own_host():
    ids = {f"DICOM_FABRIC_{name}_ID": "25bac802-080d-4f73-8a42-1b406eb1fceb" for name in ("LAKEHOUSE", "CONNECTION")}
    settings = load_settings({"DICOM_STORAGE_URL": "https://acc.dfs.core.usgovcloudapi.net", **ids})
    assert build_table_shortcuts(settings)[0].target.place == "https://acc.dfs.core.usgovcloudapi.net/dicom/instance"
