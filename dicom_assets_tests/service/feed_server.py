"""A change feed on a real socket that misbehaves on demand: faults, and changes between two requests."""

import json
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from dicom_assets.core.tables.change_feed import Window

START = datetime(2026, 3, 1, 5, tzinfo=UTC)
WINDOW = Window(START, START + timedelta(hours=1))


@dataclass
class Request:
    path: str
    params: dict[str, str]
    headers: dict[str, str]

    @property
    def offset(self) -> int:
        return int(self.params["offset"])

    @property
    def limit(self) -> int:
        return int(self.params["limit"])


@dataclass
class Answer:
    """What goes over the wire instead of a page."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    """Bytes after which the connection breaks."""
    halfway: Callable[[], object] = lambda: None
    """Called when half of the body has been sent."""


def entry(position: float) -> dict[str, Any]:
    """An entry `position` seconds into the window; its sequence is the position in milliseconds."""
    at = START + timedelta(seconds=position)
    return {
        "sequence": round(position * 1000),
        "partitionName": "Microsoft.Default",
        "studyInstanceUid": "1.2",
        "seriesInstanceUid": "1.2.3",
        "sopInstanceUid": f"1.2.3.{round(position * 1000)}",
        "action": "Create",
        "state": "Current",
        "timestamp": f"{at:%Y-%m-%dT%H:%M:%S.%f}4Z",
        "metadata": {"00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.2"]}},
    }


class FeedServer:
    """The feed's entries lie in `entries`, in order. `before` sees every request; `answers` go out before pages.

    Of `broken` entries, by sequence, the metadata cannot be given out: the page that should hold it is that answer, or
    has that text in its place.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.answers: deque[Answer] = deque()
        self.broken: dict[int, Answer | bytes] = {}
        self.before: Callable[[Request], Answer | None] = lambda request: None
        self.requests: list[Request] = []
        self.keeps_to_windows = True
        self.connections = 0
        self.most_at_once = 0
        self._at_once = 0
        self.lock = threading.Lock()
        feed = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def setup(self) -> None:
                super().setup()
                with feed.lock:
                    feed.connections += 1

            def do_GET(self) -> None:
                feed.handle(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @contextmanager
    def running(self) -> Iterator["FeedServer"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def reset(self) -> None:
        self.__dict__.update(
            entries=[], answers=deque(), broken={}, before=lambda request: None, requests=[], keeps_to_windows=True
        )
        self.__dict__.update(connections=0, most_at_once=0)

    @property
    def offsets(self) -> list[int]:
        return [request.offset for request in self.requests]

    def count_by_offset(self) -> Counter[int]:
        return Counter(self.offsets)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        request = Request(url.path, dict(parse_qsl(url.query)), headers)
        with self.lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.requests.append(request)
            answer = self.answers.popleft() if self.answers else None
        try:
            answer = answer or self.before(request) or self.break_down(request) or Answer(body=self.page(request))
        finally:
            with self.lock:
                self._at_once -= 1
        self.send(handler, answer)

    def break_down(self, request: Request) -> Answer | None:
        """The answer to a page that should hold the metadata of a broken entry."""
        if request.params.get("includeMetadata") == "false":
            return None
        for each in self.page_of(request):
            answer = self.broken.get(each["sequence"])
            if isinstance(answer, Answer) and "metadata" in each:
                return answer
        return None

    def page(self, request: Request) -> bytes:
        page = [dict(each) for each in self.page_of(request)]
        for each in page:
            if request.params.get("includeMetadata") == "false":
                each.pop("metadata", None)
            elif "metadata" in each and isinstance(self.broken.get(each["sequence"]), bytes):
                each["metadata"] = f"text of {each['sequence']}"
        body = json.dumps(page if not request.path.endswith("/latest") else next(iter(page), None)).encode()
        for sequence, text in self.broken.items():
            if isinstance(text, bytes):
                body = body.replace(f'"text of {sequence}"'.encode(), text)
        return body

    def page_of(self, request: Request) -> list[dict[str, Any]]:
        """The entries that the request means."""
        if request.path.endswith("/latest"):
            return self.entries[-1:]
        return self.entries_of(request)[request.offset : request.offset + request.limit]

    def entries_of(self, request: Request) -> list[dict[str, Any]]:
        """The entries of the request's window, in order."""
        if not self.keeps_to_windows:
            return self.entries
        start, end = (datetime.fromisoformat(request.params[name]) for name in ("startTime", "endTime"))
        return [each for each in self.entries if start <= datetime.fromisoformat(each["timestamp"]) < end]

    @staticmethod
    def send(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        handler.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            handler.send_header(name, value)
        if "Content-Length" not in answer.headers:
            handler.send_header("Content-Length", str(len(answer.body)))
        handler.end_headers()
        half = len(answer.body) // 2
        handler.wfile.write(answer.body[:half][: answer.cut])
        handler.wfile.flush()
        answer.halfway()
        handler.wfile.write(answer.body[half : answer.cut])
        handler.wfile.flush()
        if answer.cut is not None:
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
