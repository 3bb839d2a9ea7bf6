import logging
import time

import httpx
import pytest

from dicom_assets.core.errors import FabricError
from dicom_assets.fabric.client import Lakehouse, write_shortcuts
from dicom_assets.fabric.shortcuts import Shortcut, ShortcutChange, Target
from dicom_assets.network.retries import RetryPolicy
from dicom_assets_tests.fabric.fabric_server import (
    ACCOUNT,
    CONNECTION,
    LAKEHOUSE,
    OTHER_CONNECTION,
    REQUEST_ID,
    WORKSPACE,
    Answer,
    FabricServer,
    adls,
    error,
)

QUICK = RetryPolicy(tries=3, first_wait_seconds=0.01, longest_wait_seconds=0.02)


def shortcut(name, folder="Tables", connection=CONNECTION):
    return Shortcut(folder, name, Target(ACCOUNT, f"/dicom/{name}", connection))


WANTED = [shortcut("instance"), shortcut("series"), shortcut("study"), shortcut("AHDS", "Files")]


@pytest.fixture
def fabric():
    with FabricServer().running() as server:
        yield server
    assert server.problems == []


def open_lakehouse(fabric, workspace=WORKSPACE, lakehouse=LAKEHOUSE, retry=QUICK, **options):
    return Lakehouse(workspace, lakehouse, base_url=fabric.url, retry=retry, timeout_seconds=60, **options)


def run(fabric, wanted=WANTED, *, replace=False, dry_run=False, **options):
    with open_lakehouse(fabric, **options) as lakehouse:
        return write_shortcuts(lakehouse, wanted, replace=replace, dry_run=dry_run)


def changes(outcomes):
    return [outcome.change for outcome in outcomes]


def problem(fabric, *, wanted=(WANTED[0],), **options):
    """What is told of the one shortcut that could not be had, or of all."""
    try:
        (outcome,) = run(fabric, wanted, **options)
    except FabricError as raised:
        return str(raised)
    assert outcome.problem is not None
    assert outcome.describe(dry_run=False) in {"failed", "left alone"}
    return outcome.problem


# The description is held to


@pytest.mark.parametrize(
    ("query", "body", "told"),
    [
        (
            "shortcutConflictPolicy=Overwrite",
            adls("Tables", "a", "/b"),
            "shortcutConflictPolicy/: 'Overwrite' is not one",
        ),
        ("conflictPolicy=Abort", adls("Tables", "a", "/b"), "unknown parameter conflictPolicy"),
        ("", adls("Tables", "a", "/b", connection="mine"), "connectionId: 'mine' is not a 'uuid'"),
        ("", adls("Tables", "a", "/b", location="my lake"), "location: 'my lake' is not a 'uri'"),
        ("", {"path": "Tables", "name": "a"}, "'target' is a required property"),
        ("", adls("Tables", "a", "/b") | {"type": "x"}, "'type' was unexpected"),
    ],
)
def test_request_that_leaves_the_description_is_noticed(query, body, told):
    with FabricServer().running() as fabric:
        answer = httpx.post(f"{fabric.url}/v1/workspaces/{WORKSPACE}/items/{LAKEHOUSE}/shortcuts?{query}", json=body)
        assert answer.status_code == 400
        assert [each for each in fabric.problems if told in each]


def test_path_that_leaves_the_description_is_noticed():
    with FabricServer().running() as fabric:
        httpx.get(f"{fabric.url}/v1/workspaces/mine/items/{LAKEHOUSE}/shortcuts")
        httpx.get(f"{fabric.url}/v1/workspaces/{WORKSPACE}/lakehouses/{LAKEHOUSE}/shortcuts")
    assert fabric.problems == [
        "workspaceId/: 'mine' is not a 'uuid'",
        f"GET /v1/workspaces/{WORKSPACE}/lakehouses/{LAKEHOUSE}/shortcuts is not described",
    ]


# Compared before written


def test_shortcuts_are_created_once(fabric):
    outcomes = run(fabric)
    assert changes(outcomes) == [ShortcutChange.CREATE] * 4
    assert [outcome.describe(dry_run=False) for outcome in outcomes] == ["created"] * 4
    assert fabric.requests == ["ListShortcuts", *["CreateShortcut"] * 4]
    assert fabric.place("Tables/instance") == (f"{ACCOUNT}/dicom/instance", CONNECTION)
    assert fabric.place("Files/AHDS") == (f"{ACCOUNT}/dicom/AHDS", CONNECTION)
    fabric.requests.clear()
    assert changes(run(fabric)) == [ShortcutChange.NOTHING] * 4
    assert set(fabric.requests) == {"ListShortcuts"}  # two pages, and nothing was written


def test_every_page_of_the_list_is_read(fabric):
    for number in range(7):
        fabric.put(adls("Files", f"other{number}", "/elsewhere"))
    fabric.put(adls("Tables", "study", "/dicom/study"))
    assert changes(run(fabric)) == [
        ShortcutChange.CREATE,
        ShortcutChange.CREATE,
        ShortcutChange.NOTHING,
        ShortcutChange.CREATE,
    ]
    assert fabric.requests.count("ListShortcuts") == 4


def test_spelling_of_a_target_does_not_matter(fabric):
    location = "https://MyLake.dfs.core.windows.net/"
    fabric.put(adls("Tables", "instance", "dicom/instance/", CONNECTION.upper(), location))
    assert changes(run(fabric, [shortcut("instance")])) == [ShortcutChange.NOTHING]


def test_other_connection_to_the_same_place_is_put_right(fabric):
    run(fabric)
    outcomes = run(fabric, [shortcut("instance", connection=OTHER_CONNECTION)])
    assert changes(outcomes) == [ShortcutChange.CONNECT]
    assert outcomes[0].describe(dry_run=False) == "connection changed"
    assert fabric.place("Tables/instance") == (f"{ACCOUNT}/dicom/instance", OTHER_CONNECTION)
    assert len(fabric.shortcuts) == 4


ELSEWHERE = [
    (
        adls("Tables", "instance", "/other/instance"),
        "points to https://mylake.dfs.core.windows.net/other/instance, not",
    ),
    (
        adls("Tables", "instance", "/dicom/instance", location="https://old.dfs.core.windows.net"),
        "points to https://old.dfs.core.windows.net/dicom/instance, not",
    ),
    (
        {
            "path": "Tables",
            "name": "instance",
            "target": {
                "type": "OneLake",
                "oneLake": {"itemId": LAKEHOUSE, "workspaceId": WORKSPACE, "path": "Tables/i"},
            },
        },
        "points to a target of the kind OneLake that cannot be compared, not",
    ),
    (  # what somebody without access to the connection is shown
        {"path": "Tables", "name": "instance", "target": {"type": "AdlsGen2"}},
        "points to a target of the kind AdlsGen2 that cannot be compared, not",
    ),
]


@pytest.mark.parametrize(("stored", "told"), ELSEWHERE, ids=["folder", "account", "kind", "hidden"])
def test_shortcut_that_points_elsewhere_is_left_alone_unless_told_to(fabric, stored, told):
    fabric.put(stored)
    before = fabric.shortcuts["Tables/instance"]
    outcomes = run(fabric)
    assert changes(outcomes) == [
        ShortcutChange.REFUSE,
        ShortcutChange.CREATE,
        ShortcutChange.CREATE,
        ShortcutChange.CREATE,
    ]
    assert f"Tables/instance {told} to {ACCOUNT}/dicom/instance, so it was left alone." in outcomes[0].problem
    assert "--replace" in outcomes[0].problem
    assert fabric.shortcuts["Tables/instance"] == before
    outcomes = run(fabric, replace=True)
    assert changes(outcomes) == [
        ShortcutChange.REPLACE,
        ShortcutChange.NOTHING,
        ShortcutChange.NOTHING,
        ShortcutChange.NOTHING,
    ]
    assert outcomes[0].describe(dry_run=False) == "pointed here"
    assert fabric.place("Tables/instance") == (f"{ACCOUNT}/dicom/instance", CONNECTION)


def test_dry_run_writes_nothing(fabric):
    fabric.put(adls("Tables", "instance", "/other/instance"))
    fabric.put(adls("Tables", "study", "/dicom/study", OTHER_CONNECTION))
    before = dict(fabric.shortcuts)
    outcomes = run(fabric, dry_run=True)
    said = ["left alone", "would create", "would change its connection", "would create"]
    assert [outcome.describe(dry_run=True) for outcome in outcomes] == said
    assert run(fabric, dry_run=True, replace=True)[0].describe(dry_run=True) == "would point it here"
    assert fabric.shortcuts == before
    assert set(fabric.requests) == {"ListShortcuts"}


def test_names_in_schemas_and_folders_are_found_again(fabric):
    wanted = [shortcut("instance", "Tables/dbo"), shortcut("service", "Files/AHDS/workspace")]
    assert changes(run(fabric, wanted)) == [ShortcutChange.CREATE] * 2
    fabric.before = lambda name: Answer(200, {"value": []}) if name == "ListShortcuts" else None
    assert [outcome.problem for outcome in run(fabric, wanted)] == [None, None]  # found one by one
    assert fabric.requests.count("GetShortcut") == 2


# Sent again


def test_too_many_requests_wait_as_long_as_asked(fabric):
    arrivals = []
    fabric.before = lambda name: arrivals.append(time.monotonic())
    fabric.answers.append(error(429, "RequestBlocked", headers={"Retry-After": "1"}))
    assert changes(run(fabric, WANTED[:1])) == [ShortcutChange.CREATE]
    assert arrivals[1] - arrivals[0] >= 1
    assert fabric.requests == ["ListShortcuts", "ListShortcuts", "CreateShortcut"]


@pytest.mark.parametrize(
    "answer",
    [error(503, "Busy"), error(500, "UnknownError"), error(400, "Later", isRetriable=True), Answer(0, is_lost=True)],
)
def test_what_may_pass_is_tried_again(fabric, answer):
    fabric.answers.extend([answer, answer])
    assert changes(run(fabric, WANTED[:1])) == [ShortcutChange.CREATE]
    assert fabric.requests.count("ListShortcuts") == 3


def test_tries_come_to_an_end(fabric, caplog):
    fabric.answers.extend([error(503, "Busy")] * 3)
    message = problem(fabric)
    assert message.startswith(
        f"Fabric request failed: 503 (Busy: Told by Fabric, requestId {REQUEST_ID}) for {fabric.url}"
    )
    assert message.endswith("3 times. Fabric is busy, or cannot be reached: check the network, the proxy and "
                            "DICOM_FABRIC_URL, or try again later.")  # fmt: skip
    assert [record.levelno for record in caplog.records if record.name.startswith("dicom")] == [logging.WARNING] * 2


def test_write_whose_answer_was_lost_is_no_conflict(fabric):
    fabric.loses_answers = 1
    (outcome,) = run(fabric, WANTED[:1])
    assert outcome.problem is None
    assert fabric.requests == ["ListShortcuts", "CreateShortcut", "CreateShortcut", "GetShortcut"]


def test_shortcut_that_came_meanwhile_is_not_overwritten(fabric):
    def come(name):
        if name == "CreateShortcut":
            fabric.put(adls("Tables", "instance", "/theirs/instance"))

    fabric.before = come
    message = problem(fabric)
    assert (
        "Tables/instance was not written: a shortcut of that name points to https://mylake.dfs.core.windows.net/theirs"
        in message
    )
    assert fabric.place("Tables/instance")[0].endswith("/theirs/instance")


# Refused


def test_name_of_a_table_that_is_no_shortcut_is_told(fabric):
    fabric.tables.add("Tables/instance")
    outcomes = run(fabric)
    assert [outcome.problem is None for outcome in outcomes] == [False, True, True, True]
    assert outcomes[0].problem == (
        "Tables/instance was not written: something that is no shortcut, probably a table or a folder, has that name "
        "in the lakehouse. Rename or delete it there, or choose another name for the shortcut. Fabric's words: 409 "
        f"(EntityConflict: Conflict; NameConflictError: The name is taken, requestId {REQUEST_ID})."
    )


def test_conflict_that_is_told_as_a_bad_request_is_settled_too(fabric):
    fabric.tables.add("Tables/instance")
    details = ("ShorcutsOperationNotAllowed", "It exists already.")
    fabric.before = lambda name: error(400, "BadRequest", "No.", details) if name == "CreateShortcut" else None
    assert "something that is no shortcut" in problem(fabric)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        error(400, "BadRequest", "The request could not be processed.", ("InvalidConnection", "No such connection.")),
        error(403, "InsufficientPrivileges"),
    ],
    ids=["404", "400", "403"],
)
def test_connection_that_does_not_exist_is_told(fabric, answer):
    fabric.connections.clear()
    fabric.before = lambda name: answer if name == "CreateShortcut" else None
    message = problem(fabric)
    assert f"the connection {CONNECTION} exists (Manage connections and gateways" in message
    assert 'has the "Storage Blob Data Reader" role on dicom' in message
    assert "the folder /dicom/instance exists" in message
    assert REQUEST_ID in message


def test_missing_role_is_told(fabric):
    fabric.may_write = False
    message = problem(fabric)
    assert "403 (InsufficientPrivileges: Told by Fabric" in message
    assert (
        "Check that: (1) this identity has a role in the workspace that may write (Contributor, Member or Admin);"
        in message
    )
    fabric.before = lambda name: error(403, "InsufficientPrivileges")
    assert "The identity lacks a role in the workspace that may write" in problem(fabric)


@pytest.mark.parametrize(
    "options", [{"lakehouse": WORKSPACE}, {"workspace": LAKEHOUSE}], ids=["lakehouse", "workspace"]
)
def test_lakehouse_of_another_workspace_is_told(fabric, options):
    message = problem(fabric, **options)
    assert "NotFound: Told by Fabric" in message
    assert "There is no such lakehouse in that workspace, or none that this identity may see: check " in message
    assert "DICOM_FABRIC_WORKSPACE_ID and DICOM_FABRIC_LAKEHOUSE_ID" in message


def test_token_of_another_tenant_is_told(fabric):
    fabric.token = "ours"
    message = problem(fabric)
    assert "Fabric did not accept the token" in message
    assert "az login --tenant" in message


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer(200, b"<html>Sign in</html>", {"Content-Type": "text/html"}), "200 without JSON for "),
        (Answer(302, b"", {"Location": "https://login.example"}), "302 without JSON for "),
        (Answer(200, b"[]"), "Fabric answered something else than the list of shortcuts"),
        (Answer(200, b"\xff"), "Fabric answered something else than the list of shortcuts"),
        (Answer(418, b"teapot", {"requestId": REQUEST_ID}), f"418 (requestId {REQUEST_ID}) for "),
        (Answer(418, b""), "Fabric request failed: 418 for "),
        (Answer(499, b""), "Fabric request failed: 499 for "),
    ],
)
def test_answer_that_is_none_is_told(fabric, answer, told):
    fabric.answers.append(answer)
    assert told in problem(fabric)


def test_write_answered_by_a_sign_in_page_did_not_happen(fabric):
    page = Answer(200, b"<html>Sign in</html>", {"Content-Type": "text/html"})
    fabric.before = lambda name: page if name == "CreateShortcut" else None
    assert "Something else than the Fabric REST API answers there" in problem(fabric)


def test_list_that_does_not_end_is_told(fabric):
    fabric.before = lambda name: Answer(200, {"value": [], "continuationToken": "again"})
    assert "gave the same continuationToken twice" in problem(fabric)


def test_refusal_while_a_conflict_is_settled_is_told(fabric):
    fabric.tables.add("Tables/instance")
    fabric.before = lambda name: error(403, "InsufficientPrivileges") if name == "GetShortcut" else None
    assert "The identity lacks a role" in problem(fabric)


SECRETS = (
    "Access to https://mylake.blob.core.windows.net/dicom?skoid=OID&sig=SECRET denied",
    "token eyJhbGciOi.eyJzdWIi.SECRET was refused",
    "AccountKey=SECRET;",
    "sig=SECRET",
    "client_secret: SECRET",
)


@pytest.mark.parametrize("words", SECRETS)
def test_secrets_in_fabrics_words_are_not_repeated(fabric, caplog, words):
    fabric.before = lambda name: error(400, "BadRequest", words) if name == "CreateShortcut" else None
    assert "SECRET" not in problem(fabric)
    fabric.before = lambda name: error(503, "Busy", words)
    assert "SECRET" not in problem(fabric)
    assert "SECRET" not in caplog.text


def test_long_words_are_cut(fabric):
    fabric.answers.append(error(400, "BadRequest", "word " * 1000))
    assert len(problem(fabric)) < 900
