"""A lakehouse's shortcuts behind Fabric's REST API, on a real socket, held to Microsoft's description of it.

What the description leaves open is done as the service was seen to do it: the list's paths begin with a slash, its
token is %-encoded, a name that is taken answers 409.
"""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from dicom_assets_tests.fabric.openapi import Description, Operation

DESCRIPTION = Description(Path(__file__).parent / "fabric_api" / "shortcuts.json")
WORKSPACE = "cfafbeb1-8037-4d0c-896e-a46fb27ff229"
LAKEHOUSE = "25bac802-080d-4f73-8a42-1b406eb1fceb"
CONNECTION = "91324db9-8dc4-4730-a1e5-bafabf1fb91e"
OTHER_CONNECTION = "af196b7b-0bf8-4430-b383-ad48d14f4edf"
REQUEST_ID = "11a7f238-08ee-40e9-8c3f-cf8994472056"
ACCOUNT = "https://mylake.dfs.core.windows.net"
SETTINGS = {
    "DICOM_STORAGE_URL": ACCOUNT,
    "AZURE_STORAGE_ACCOUNT_KEY": "A" * 86 + "==",  # of storage, which nothing here asks
    "DICOM_FABRIC_WORKSPACE_ID": WORKSPACE,
    "DICOM_FABRIC_LAKEHOUSE_ID": LAKEHOUSE,
    "DICOM_FABRIC_CONNECTION_ID": CONNECTION,
    "DICOM_AUTHENTICATION": "none",
}


@dataclass
class Answer:
    """What goes over the wire."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    is_lost: bool = False
    """Whether the connection breaks instead."""


def error(status: int, code: str, message: str = "Told by Fabric.", *details: tuple[str, str], **more: Any) -> Answer:
    inner = [{"errorCode": code, "message": message} for code, message in details]
    body = {"requestId": REQUEST_ID, "errorCode": code, "message": message, **more}
    return Answer(status, body | ({"moreDetails": inner} if inner else {}), more.pop("headers", {}))


def adls(path: str, name: str, subpath: str, connection: str = CONNECTION, location: str = ACCOUNT) -> dict[str, Any]:
    """A shortcut as a create request has it."""
    target = {"adlsGen2": {"location": location, "subpath": subpath, "connectionId": connection}}
    return {"path": path, "name": name, "target": target}


class FabricServer:
    """One workspace with one lakehouse. `before` sees every request and may answer it; `answers` go out first."""

    def __init__(self) -> None:
        self.shortcuts: dict[str, dict[str, Any]] = {}
        self.tables: set[str] = set()
        """Paths that hold something that is no shortcut."""
        self.connections = {CONNECTION, OTHER_CONNECTION}
        self.may_write = True
        self.token: str | None = None
        """What requests must bear."""
        self.page_size = 2
        self.answers: deque[Answer] = deque()
        self.before: Callable[[str], Answer | None] = lambda name: None
        self.loses_answers = 0
        """So many writes go through, and their answers get lost."""
        self.requests: list[str] = []
        self.audiences: list[str] = []
        """What tokens were asked for."""
        self.problems: list[str] = []
        """Where a request or an answer left the description."""
        fabric = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                fabric.handle(self)

            do_POST = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator["FabricServer"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def put(self, shortcut: dict[str, Any]) -> None:
        target = shortcut["target"]
        if "type" not in target:
            target = {"type": "AdlsGen2", **target}
        self.shortcuts[f"{shortcut['path']}/{shortcut['name']}"] = {**shortcut, "target": target}

    def place(self, path: str) -> tuple[str, str]:
        """What a shortcut points to, and through which connection."""
        target = self.shortcuts[path]["target"]["adlsGen2"]
        return f"{target['location']}{target['subpath']}", target["connectionId"]

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.path.startswith("/msi/token"):  # a managed identity, as App Service gives it
            self.audiences.extend(parse_qs(urlsplit(handler.path).query)["resource"])
            self.send(handler, Answer(200, {"access_token": self.token, "expires_on": "4102444800"}))
            return
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        operation = DESCRIPTION.find(handler.command, handler.path)
        if operation is None:
            self.problems.append(f"{handler.command} {handler.path} is not described")
            self.send(handler, error(404, "EndpointNotFound"))
            return
        name = operation.name.removeprefix("OneLakeShortcuts_")
        self.requests.append(name)
        content_type = handler.headers.get("Content-Type", "")
        wrong = list(DESCRIPTION.request_problems(operation, handler.path, content_type, body))
        self.problems.extend(wrong)
        answer = error(400, "InvalidInput", "; ".join(wrong)) if wrong else None
        answer = answer or self.before(name) or (self.answers.popleft() if self.answers else None)
        if answer is None:
            answer = self.answer(operation, handler, json.loads(body) if body else None)
        if isinstance(answer.body, dict):  # else it is broken on purpose
            problems = DESCRIPTION.answer_problems(operation, answer.status, answer.headers, answer.body)
            self.problems.extend(f"our own answer: {problem}" for problem in problems)
        self.send(handler, answer)

    def answer(self, operation: Operation, handler: BaseHTTPRequestHandler, body: Any) -> Answer:
        refusals = {
            "Unauthorized": (401, self.token and handler.headers.get("Authorization") != f"Bearer {self.token}"),
            "WorkspaceNotFound": (404, operation.arguments["workspaceId"] != WORKSPACE),
            "ItemNotFound": (404, operation.arguments["itemId"] != LAKEHOUSE),
        }
        for code, (status, holds) in refusals.items():
            if holds:
                return error(status, code)
        query = {name: values[0] for name, values in parse_qs(urlsplit(handler.path).query).items()}
        if operation.name.endswith("ListShortcuts"):
            return self.list(query)
        if operation.name.endswith("GetShortcut"):
            path = f"{operation.arguments['shortcutPath']}/{operation.arguments['shortcutName']}"
            found = self.shortcuts.get(path)
            return Answer(200, found) if found else error(404, "EntityNotFound", "", ("ShortcutNotFound", "None."))
        if not self.may_write:
            return error(403, "InsufficientPrivileges")
        answer = self.create(body, query.get("shortcutConflictPolicy", "Abort"))
        if answer.status < 300 and self.loses_answers:
            self.loses_answers -= 1
            answer.is_lost = True
        return answer

    def list(self, query: dict[str, str]) -> Answer:
        start = int(query.get("continuationToken", "+/=0").removeprefix("+/="))
        page = list(self.shortcuts.values())[start : start + self.page_size]
        body: dict[str, Any] = {"value": [{**each, "path": f"/{each['path']}"} for each in page]}
        if start + self.page_size < len(self.shortcuts):
            body["continuationToken"] = quote(f"+/={start + self.page_size}", safe="")
            body["continuationUri"] = f"https://elsewhere.example/?continuationToken={body['continuationToken']}"
        return Answer(200, body)

    def create(self, body: Any, policy: str) -> Answer:
        path = f"{body['path']}/{body['name']}"
        if body["target"]["adlsGen2"]["connectionId"] not in self.connections:
            return error(404, "EntityNotFound", "The connection was not found.")
        if path in self.tables:
            return error(409, "EntityConflict", "Conflict.", ("NameConflictError", "The name is taken."))
        exists = path in self.shortcuts
        if policy == "Abort" and exists:
            return error(409, "EntityConflict", "Conflict.", ("ShorcutsOperationNotAllowed", "It exists already."))
        if policy == "OverwriteOnly" and not exists:
            return error(404, "EntityNotFound", "", ("ShortcutNotFound", "None."))
        self.put(body)
        return Answer(200 if exists else 201, self.shortcuts[path], {"Location": f"{self.url}/{path}"})

    @staticmethod
    def send(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        if answer.is_lost:
            handler.close_connection = True
            return
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        handler.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
