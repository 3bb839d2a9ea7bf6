"""The embedded service over HTTP: STOW-RS, DELETE, bulk updates, data partitions and the change feed (API v2 on).

It is more lenient than the real service in one respect: data partitions are always enabled, and a path without a
partition means `Microsoft.Default`, as if they were disabled.

Source: the public DICOM server's routes, controllers and status codes.
"""

import json
import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypedDict, Unpack

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from dicom_assets.core.tables.change_feed import DEFAULT_PARTITION
from dicom_assets.emulator.clock import format_ticks, ticks_now
from dicom_assets.emulator.errors import EmulatorError, InvalidPartitionError, InvalidUpdateError
from dicom_assets.emulator.http.parameters import parse_include_metadata, parse_page_request
from dicom_assets.emulator.http.stow import StoreResponse, comments, split_parts, store_parts
from dicom_assets.emulator.http.tokens import check_token
from dicom_assets.emulator.store.store import Service, is_uid
from dicom_assets.emulator.store.updates import MAXIMUM_STUDIES, check_changes

Intercept = Callable[[Request], Response | None]
"""A function that gets every request first; a response that it returns is sent instead (to act busy, or broken)."""

_Endpoint = Callable[[Request], Awaitable[Response]]
_OLDEST_VERSION: Final = 2
_JSON: Final = "application/json"
_DICOM_JSON: Final = "application/dicom+json"


class Options(TypedDict, total=False):
    """Options of the application; each may be None, which means that it is not given."""

    token: str | None
    """Bearer token that every request must carry."""
    audience: str | None
    """Audience that the token of every request must have."""
    intercept: Intercept | None
    """Gets every request first, and may answer it."""
    max_page_bytes: int | None
    """Most bytes of a page's body; greater pages answer 504, as a gateway before the service would."""
    max_page_entries: int | None
    """Most entries of a page; larger pages answer 504."""


def create_app(service: Service, **options: Unpack[Options]) -> Starlette:
    """Return the ASGI application of a service, which stays open when the application ends."""
    endpoints = _Endpoints(service, options.get("max_page_bytes"), options.get("max_page_entries"))
    intercept = options.get("intercept")

    def route(path: str, endpoint: _Endpoint, method: str, accepts: str) -> Route:
        async def guarded(request: Request) -> Response:
            if intercept is not None and (response := intercept(request)) is not None:
                return response
            check_token(request, token=options.get("token"), audience=options.get("audience"))
            _check_version(request)
            _check_accept(request, accepts)
            return await endpoint(request)

        return Route("/v{version}" + path, guarded, methods=[method])

    routes = [
        route("/changefeed", endpoints.change_feed, "GET", _JSON),
        route("/changefeed/latest", endpoints.latest, "GET", _JSON),
        route("/partitions", endpoints.partitions, "GET", _JSON),
        route("/operations/{operation}", endpoints.operation, "GET", _JSON),
    ]
    for prefix in ("", "/partitions/{partition}"):
        study = prefix + "/studies/{study}"
        routes += [
            route(prefix + "/studies", endpoints.store, "POST", _DICOM_JSON),
            route(prefix + "/studies/$bulkUpdate", endpoints.bulk_update, "POST", _JSON),
            route(study, endpoints.store, "POST", _DICOM_JSON),
            route(study, endpoints.delete, "DELETE", "*"),
            route(study + "/series/{series}", endpoints.delete, "DELETE", "*"),
            route(study + "/series/{series}/instances/{instance}", endpoints.delete, "DELETE", "*"),
        ]
    return Starlette(routes=routes, exception_handlers={EmulatorError: _refuse})


class _Endpoints:
    def __init__(self, service: Service, max_page_bytes: int | None, max_page_entries: int | None) -> None:
        self._service = service
        self._max_page_bytes = max_page_bytes
        self._max_page_entries = max_page_entries
        self._operations: dict[str, dict[str, Any]] = {}

    async def change_feed(self, request: Request) -> Response:
        page = parse_page_request(request.query_params)
        entries = await run_in_threadpool(self._service.change_feed_texts, page)
        content = b"[%s]" % b",".join(entries)
        limits = ((self._max_page_bytes, len(content)), (self._max_page_entries, len(entries)))
        if any(limit is not None and size > limit for limit, size in limits):
            raise HTTPException(504, "The gateway waited too long for the page.")
        return Response(content, media_type=_JSON)

    async def latest(self, request: Request) -> Response:
        include_metadata = parse_include_metadata(request.query_params)
        entry = await run_in_threadpool(self._service.latest_text, include_metadata=include_metadata)
        return Response(status_code=204) if entry is None else Response(entry, media_type=_JSON)

    async def partitions(self, _: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._service.partitions))

    async def store(self, request: Request) -> Response:
        study = self._uids(request).get("study")
        partition = request.path_params.get("partition", DEFAULT_PARTITION)
        parts = split_parts(request.headers.get("Content-Type", ""), await request.body())
        studies_url = str(request.url.replace(query="", path=request.url.path.partition("/studies")[0] + "/studies"))
        response = StoreResponse(studies_url, study)
        if not parts:
            return Response(status_code=204)
        await run_in_threadpool(store_parts, self._service, parts, partition, response)
        return JSONResponse(response.dataset, response.status, media_type=_DICOM_JSON)

    async def delete(self, request: Request) -> Response:
        uids = self._uids(request)
        partition = self._existing_partition(request)
        deleted = await run_in_threadpool(
            self._service.delete, uids["study"], uids.get("series"), uids.get("instance"), partition=partition
        )
        if not deleted:
            raise HTTPException(404, "The study, series or instance does not exist.")
        return Response(status_code=204)

    async def bulk_update(self, request: Request) -> Response:
        if request.headers.get("Content-Type", _JSON).partition(";")[0].strip() != _JSON:
            raise HTTPException(415, "Send application/json.")
        studies, changes = _update_specification(await request.body(), self._service.keep_padding)
        partition = self._existing_partition(request)
        try:
            check_changes(changes)
        except InvalidUpdateError as error:
            return JSONResponse({"00741048": comments(error.comments)}, 400, media_type=_DICOM_JSON)
        operation = await run_in_threadpool(self._update, studies, changes, partition)
        href = str(request.url.replace(query="", path=f"/v{request.path_params['version']}/operations/{operation}"))
        return JSONResponse({"id": operation, "href": href}, 202, headers={"Location": href})

    async def operation(self, request: Request) -> Response:
        try:
            state = self._operations[uuid.UUID(request.path_params["operation"]).hex]
        except (ValueError, KeyError) as error:
            raise HTTPException(404, "There is no such operation.") from error
        return JSONResponse(state)

    def _update(self, studies: list[str], changes: dict[str, Any], partition: str) -> str:
        """Perform the update at once, and return the operation's id; the real service performs it some time later."""
        created = format_ticks(ticks_now())
        counts = [self._service.update(study, changes, partition=partition) for study in studies]
        missing = [study for study, count in zip(studies, counts, strict=True) if not count]
        results: dict[str, Any] = {"studyUpdated": len(studies) - len(missing), "instanceUpdated": sum(counts)}
        if missing:
            results["studyFailed"] = len(missing)
            results["errors"] = [f"Failed to update instances for study {study}" for study in missing]
        operation = uuid.uuid4().hex
        self._operations[operation] = {
            "operationId": operation,
            "type": "update",
            "createdTime": created,
            "lastUpdatedTime": format_ticks(ticks_now()),
            "status": "failed" if missing else "succeeded",
            "percentComplete": 100,
            "results": results,
        }
        return operation

    def _uids(self, request: Request) -> dict[str, str]:
        """Return the UIDs in the path, after a check that all are valid."""
        names = [name for name in ("study", "series", "instance") if name in request.path_params]
        uids: dict[str, str] = {name: str(request.path_params[name]) for name in names}
        for name, uid in uids.items():
            if not is_uid(uid, keep_padding=self._service.keep_padding):
                raise HTTPException(400, f"The {name} in the path is no UID.")
        return uids

    def _existing_partition(self, request: Request) -> str:
        partition = str(request.path_params.get("partition", DEFAULT_PARTITION))
        if not self._service.has_partition(partition):
            raise InvalidPartitionError("The partition in the path does not exist; storing to it would make it.")
        return partition


def _update_specification(body: bytes, keep_padding: bool) -> tuple[list[str], dict[str, Any]]:
    """Parse the studies and the changes in a bulk update's body."""
    try:
        specification = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "The body is no JSON.") from error
    members = {name.lower(): value for name, value in specification.items()} if isinstance(specification, dict) else {}
    studies, changes = members.get("studyinstanceuids"), members.get("changedataset")
    if not isinstance(studies, list) or not 1 <= len(studies) <= MAXIMUM_STUDIES or not isinstance(changes, dict):
        raise HTTPException(400, f"Give 1 to {MAXIMUM_STUDIES} studyInstanceUids and a changeDataset.")
    if not all(isinstance(study, str) and is_uid(study, keep_padding=keep_padding) for study in studies):
        raise HTTPException(400, "A study instance UID is no UID.")
    return studies, changes


def _check_version(request: Request) -> None:
    version = request.path_params["version"]
    if not re.fullmatch(r"[0-9]{1,4}", version) or int(version) < _OLDEST_VERSION:
        raise HTTPException(400, f"API version {_OLDEST_VERSION} or later is supported.")


def _check_accept(request: Request, media_type: str) -> None:
    ranges = [part.partition(";")[0].strip().lower() for part in request.headers.get("Accept", "*/*").split(",")]
    accepted = {"*/*", media_type, media_type.partition("/")[0] + "/*"}
    if media_type != "*" and not accepted.intersection(ranges):
        raise HTTPException(406, f"The answer is {media_type}.")


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, EmulatorError)  # noqa: S101 - the class that it is registered for
    return PlainTextResponse(str(error), error.status_code)
