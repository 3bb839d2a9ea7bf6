"""Requests and answers against a description of an API (Swagger 2.0), by jsonschema."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from jsonschema import Draft4Validator, FormatChecker

_FOLDERS = {"shortcutPath"}
"""Parameters of a path that may hold slashes, as in the description's own examples."""


@dataclass(frozen=True)
class Operation:
    """What the description says of one request."""

    name: str
    arguments: dict[str, str]
    """From the path, decoded."""
    details: Mapping[str, Any]


class Description:
    """A description in a file."""

    def __init__(self, path: Path) -> None:
        self._text = json.loads(path.read_text())

    def find(self, method: str, url: str) -> Operation | None:
        """The operation that a request is for."""
        path = urlsplit(url).path.removeprefix(self._text["basePath"])
        for template, operations in self._text["paths"].items():
            pattern = re.sub(r"{(\w+)}", lambda m: f"(?P<{m[1]}>{'.+' if m[1] in _FOLDERS else '[^/]+'})", template)
            if (match := re.fullmatch(pattern, path)) and method.lower() in operations:
                arguments = {name: unquote(value) for name, value in match.groupdict().items()}
                operation = operations[method.lower()]
                return Operation(operation["operationId"], arguments, operation)
        return None

    def request_problems(self, operation: Operation, url: str, content_type: str, body: bytes) -> Iterator[str]:
        """What is wrong with a request; a property or parameter that the description does not name is wrong, too."""
        query = parse_qsl(urlsplit(url).query, keep_blank_values=True)
        given = {"path": operation.arguments, "query": dict(query)}
        parameters = operation.details["parameters"]
        known = {each["name"] for each in parameters if each["in"] == "query"}
        yield from (f"unknown parameter {name}" for name, _ in query if name not in known)
        if len(query) != len(given["query"]):
            yield "a parameter is given twice"
        takes_body = False
        for parameter in parameters:
            name, place = parameter["name"], parameter["in"]
            if place == "body":
                takes_body = True
                if content_type not in operation.details["consumes"]:
                    yield f"content type {content_type}"
                schema = self._closed(parameter["schema"])
                yield from self._problems(schema, json.loads(body), "body")
            elif name in given[place]:
                schema = {key: parameter[key] for key in ("type", "format", "enum") if key in parameter}
                yield from self._problems(schema, given[place][name], name)
            elif parameter["required"]:
                yield f"parameter {name} is missing"
        if body and not takes_body:
            yield "a body, which this request does not take"

    def answer_problems(
        self, operation: Operation, status: int, headers: Mapping[str, str], body: Any
    ) -> Iterator[str]:
        """What is wrong with an answer."""
        answers = operation.details["responses"]
        answer = answers.get(str(status)) or answers["default"]
        if status < 400 and str(status) not in answers:
            yield f"status {status}"
        for name, schema in answer.get("headers", {}).items():
            if name in headers:
                value = int(headers[name]) if schema["type"] == "integer" else headers[name]
                yield from self._problems(schema, value, name)
        if "schema" in answer:
            yield from self._problems(answer["schema"], body, "answer")

    def _problems(self, schema: Mapping[str, Any], value: Any, name: str) -> Iterator[str]:
        whole = {**schema, "definitions": self._text["definitions"]}
        if "$ref" in schema:  # whose siblings count for nothing
            whole = {"allOf": [schema], "definitions": self._text["definitions"]}
        for error in Draft4Validator(whole, format_checker=FormatChecker()).iter_errors(value):
            yield f"{name}/{'/'.join(map(str, error.path))}: {error.message}"

    def _closed(self, schema: Any) -> Any:
        """The schema with its references resolved, refusing properties that it does not name."""
        if isinstance(schema, list):
            return [self._closed(each) for each in schema]
        if not isinstance(schema, dict):
            return schema
        if "$ref" in schema:
            return self._closed(self._text["definitions"][schema["$ref"].rsplit("/", 1)[1]])
        closed = {key: self._closed(value) for key, value in schema.items()}
        if "properties" in schema:
            closed["properties"] = {name: self._closed(value) for name, value in schema["properties"].items()}
            closed["additionalProperties"] = False
        return closed
