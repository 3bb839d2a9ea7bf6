import threading
from urllib.parse import urlsplit

import httpx
import pytest

from dicom_assets.emulator.errors import EmulatorStartError
from dicom_assets.emulator.http.server import serve
from dicom_assets_tests.processes import free_port


def test_stopped_server_leaves_no_thread_and_no_listener(service):
    threads = threading.active_count()
    with serve(service, port=free_port()) as url:
        assert httpx.get(f"{url}/v2/changefeed").status_code == 200
    assert "dicom-emulator" not in {thread.name for thread in threading.enumerate()}
    assert threading.active_count() <= threads + 1  # a worker may still be idle
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/v2/changefeed")


def test_port_can_be_taken_again_at_once(service):
    port = free_port()
    for _ in range(2):
        with serve(service, port=port) as url:
            assert urlsplit(url).port == port
            assert httpx.get(f"{url}/v2/changefeed").status_code == 200


def test_taken_port_is_told_with_what_to_do(service):
    with serve(service) as url:
        port = urlsplit(url).port
        with pytest.raises(EmulatorStartError, match=f"port {port}.*--port"), serve(service, port=port):
            pass


def test_impossible_port_is_told(service):
    with pytest.raises(EmulatorStartError, match="99999"), serve(service, port=99999):
        pass


def test_server_stops_when_the_block_fails(service):
    with pytest.raises(RuntimeError, match="inside"), serve(service):
        raise RuntimeError("inside")
    assert "dicom-emulator" not in {thread.name for thread in threading.enumerate()}
