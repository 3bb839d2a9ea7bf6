"""A DICOM service that has nothing to do: slices of a rendered feed, one `sendall` a page.

    python -m bench.server FOLDER [SCANNED_PER_SECOND [LATENCY_SECONDS]]

prints its URL and serves until its standard input ends. A page is one piece of `entries.bin`, whatever the window, the
offset and the limit, so that a request costs the server a copy of its bytes. Without metadata it is a piece of every
entry.

The real service goes through all rows of the window before the offset. Here they are only counted, which `/scanned`
tells; with a number of rows scanned a second, a page is that much later; and with a latency, every page.
"""

import mmap
import socket
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from subprocess import PIPE, Popen
from urllib.parse import parse_qs, urlsplit

_FIELDS = 3  # of an entry in the index: where it begins, where its metadata begins, its time in microseconds


class Pages:
    """The pages of a rendered feed."""

    def __init__(self, folder: Path, scanned_per_second: float, latency_seconds: float) -> None:
        self._scanned_per_second, self._latency_seconds = scanned_per_second, latency_seconds
        self._lock = threading.Lock()
        self.scanned = 0
        """Rows of the windows that were gone through for all pages so far."""
        with (folder / "entries.bin").open("rb") as entries:
            self._entries = mmap.mmap(entries.fileno(), 0, prot=mmap.PROT_READ)
        self._index = memoryview((folder / "index.bin").read_bytes()).cast("q")
        self._times = self._index[2::_FIELDS]

    def page(self, query: dict[str, list[str]]) -> bytes:
        first = bisect_left(self._times, _microseconds(query["startTime"][0])) if "startTime" in query else 0
        end = len(self._times)
        if "endTime" in query:
            end = bisect_left(self._times, _microseconds(query["endTime"][0]))
        start, first = first, first + int(query.get("offset", ["0"])[0])
        end = min(end, first + int(query.get("limit", ["100"])[0]))
        self._scan(max(0, end - start))
        if first >= end:
            return b"[]"
        if query.get("includeMetadata", ["true"])[0].lower() == "false":
            return b"[%s]" % b",".join(self._envelope(number) for number in range(first, end))
        return b"[%s]" % self._entries[self._index[first * _FIELDS] : self._index[end * _FIELDS] - 1]

    def latest(self) -> bytes:
        return self._envelope(len(self._times) - 1) if len(self._times) else b"null"

    def _scan(self, rows: int) -> None:
        with self._lock:
            self.scanned += rows
        pause = self._latency_seconds
        if self._scanned_per_second:
            pause += rows / self._scanned_per_second
        if pause:
            time.sleep(pause)

    def _envelope(self, number: int) -> bytes:
        begin, metadata = self._index[number * _FIELDS : number * _FIELDS + 2]
        return self._entries[begin:metadata] + b"}"


def _microseconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int(moment.timestamp()) * 10**6 + moment.microsecond


def _answer(connection: socket.socket, pages: Pages) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    received = b""
    with connection:
        while True:
            while b"\r\n\r\n" not in received:
                part = connection.recv(65536)
                if not part:
                    return
                received += part
            request, received = received.split(b"\r\n\r\n", 1)
            url = urlsplit(request.split(b" ", 2)[1].decode())
            if url.path == "/v2/changefeed":
                status, body = b"200 OK", pages.page(parse_qs(url.query))
            elif url.path == "/v2/changefeed/latest":
                status, body = b"200 OK", pages.latest()
            elif url.path == "/scanned":
                status, body = b"200 OK", b"%d" % pages.scanned
            else:
                status, body = b"404 Not Found", b"null"
            head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
            connection.sendall(head + body)


@contextmanager
def serving(folder: Path, scanned_per_second: float = 0, latency_seconds: float = 0) -> Iterator[str]:
    """Serves a rendered feed from a process of its own until the block ends; gives its URL."""
    command = [sys.executable, "-m", "bench.server", str(folder), str(scanned_per_second), str(latency_seconds)]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def main(folder: str, scanned_per_second: str = "0", latency_seconds: str = "0") -> None:
    pages = Pages(Path(folder), float(scanned_per_second), float(latency_seconds))
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_answer, args=(connection, pages), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:4])
