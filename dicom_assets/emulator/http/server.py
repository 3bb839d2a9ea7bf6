"""The embedded service on a port of this machine."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Unpack

import uvicorn

from dicom_assets.emulator.errors import EmulatorStartError
from dicom_assets.emulator.http.app import Options, create_app
from dicom_assets.emulator.store.store import Service


@contextlib.contextmanager
def serve(service: Service, *, host: str = "127.0.0.1", port: int = 0, **options: Unpack[Options]) -> Iterator[str]:
    """Serve until the block ends.

    Args:
        service: The service's state; it stays open.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        options: Options of the application.

    Yields:
        The base URL.

    Raises:
        EmulatorStartError: The port is taken, or the address does not belong to this machine.
    """
    with _listen(host, port) as listener:
        app = create_app(service, **options)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), name="dicom-emulator", daemon=True)
        thread.start()
        try:
            # The listening socket queues connections from here on, so clients need not wait for the server's start.
            yield f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        raise EmulatorStartError(
            f"The embedded service cannot listen on {host}, port {port} ({error}). Another program probably has the"
            " port: stop it, or choose another port with --port (0 takes a free one)."
        ) from error
    return listener
