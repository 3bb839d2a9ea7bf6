import base64
import json
import time

import httpx
import pytest
from starlette.responses import Response

from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.metadata.data_set import build_dataset, encode
from dicom_assets_tests.emulator.conftest import metadata_of, name_in, renamed

MULTIPART = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}


def part(content, content_type="application/dicom"):
    return b"--b\r\nContent-Type: " + content_type.encode() + b"\r\n\r\n" + content + b"\r\n"


def multipart(*contents):
    return b"".join(part(content) for content in contents) + b"--b--\r\n"


def dicom(**uids):
    return encode(build_dataset(metadata_of(**uids)))


def reasons(response):
    return [item["00081197"]["Value"][0] for item in response.json()["00081198"]["Value"]]


def test_store_answers_with_a_dicom_json_data_set(client, url):
    response = client.post("studies/1.2", content=multipart(dicom()), headers=MULTIPART)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/dicom+json"
    study = f"{url}/v2/studies/1.2"
    assert response.json() == {
        "00081190": {"vr": "UR", "Value": [study]},
        "00081199": {
            "vr": "SQ",
            "Value": [
                {
                    "00081150": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.2"]},
                    "00081155": {"vr": "UI", "Value": ["1.2.3.4"]},
                    "00081190": {"vr": "UR", "Value": [f"{study}/series/1.2.3/instances/1.2.3.4"]},
                }
            ],
        },
    }


def test_some_stored_some_refused_is_202(client, feed):
    response = client.post("studies", content=multipart(dicom(), b"no DICOM", dicom()), headers=MULTIPART)
    assert response.status_code == 202
    assert reasons(response) == [272, 45070]
    assert len(response.json()["00081199"]["Value"]) == len(feed()) == 1


def test_none_stored_is_409(client, feed):
    response = client.post("studies", content=multipart(b"", b"no DICOM"), headers=MULTIPART)
    assert (response.status_code, reasons(response)) == (409, [272, 272])
    assert feed() == []


def test_instance_of_another_study_than_the_path_is_refused(client):
    response = client.post("studies/9.9", content=multipart(dicom()), headers=MULTIPART)
    assert (response.status_code, reasons(response)) == (409, [43264])


def test_instance_without_patient_id_is_refused(client):
    metadata = metadata_of()
    del metadata["00100020"]
    response = client.post("studies", content=multipart(encode(build_dataset(metadata))), headers=MULTIPART)
    assert (response.status_code, reasons(response)) == (409, [43264])
    assert "00100020" in response.text


def test_unreadable_attribute_is_stored_with_a_warning(client, feed):
    content = dicom().replace(b"P1", b"P1")
    content += b"\x28\x00\x08\x00IS\x04\x00many"  # (0028,0008) Number of Frames
    response = client.post("studies", content=content, headers={"Content-Type": "application/dicom"})
    assert response.status_code == 202
    assert response.json()["00081199"]["Value"][0]["00081196"]["Value"] == [1]
    assert "00280008" not in feed()[0]["metadata"]


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/dicom", dicom(), 200),
        ("application/dicom", b"", 204),
        ("multipart/related; boundary=b", multipart(dicom()), 200),
        (MULTIPART["Content-Type"], b"", 204),
        (MULTIPART["Content-Type"], b"--b--", 204),
        ("application/json", b"{}", 415),
        ("", b"", 415),
        ('multipart/related; type="application/dicom+json"; boundary=b', multipart(dicom()), 415),
        (MULTIPART["Content-Type"], part(b"{}", "application/json") + b"--b--", 415),
        ('multipart/related; type="application/dicom"', multipart(dicom()), 400),
        (MULTIPART["Content-Type"], b"no boundary at all", 400),
        (MULTIPART["Content-Type"], part(dicom()), 400),
        (MULTIPART["Content-Type"], b"--b\r\nContent-Type: application/dicom\r\n--b--", 400),
    ],
)
def test_status_by_content_type_and_body(client, content_type, body, status):
    response = client.post("studies", content=body, headers={"Content-Type": content_type})
    assert response.status_code == status, response.text


def test_study_in_the_path_must_be_a_uid(client):
    assert client.post("studies/abc", content=multipart(dicom()), headers=MULTIPART).status_code == 400


@pytest.mark.parametrize("accept", ["text/html", "application/dicom+xml"])
def test_other_answers_than_json_are_not_acceptable(client, accept):
    assert client.get("changefeed", headers={"Accept": accept}).status_code == 406
    headers = {**MULTIPART, "Accept": accept}
    assert client.post("studies", content=multipart(dicom()), headers=headers).status_code == 406


@pytest.mark.parametrize("accept", ["*/*", "application/*", "text/html, application/json;q=0.9"])
def test_json_is_acceptable_in_many_words(client, accept):
    response = client.get("changefeed", headers={"Accept": accept})
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json")


@pytest.mark.parametrize(("path", "left"), [("", 0), ("/series/1.2.3", 1), ("/series/1.2.3/instances/1.2.3.4", 2)])
def test_delete_by_path(service, client, path, left):
    service.store_metadata(metadata_of())
    service.store_metadata(metadata_of(instance="1.2.3.5"))
    service.store_metadata(metadata_of(series="1.2.4", instance="1.2.4.1"))
    assert client.delete(f"studies/1.2{path}").status_code == 204
    assert service.instance_count() == left
    assert client.delete(f"studies/1.2{path}").status_code == 404


@pytest.mark.parametrize("path", ["studies/abc", "studies/1.2/series/1.", "studies/1.2/series/1/instances/x"])
def test_delete_of_no_uid_is_refused(client, path):
    assert client.delete(path).status_code == 400


def test_partitions_are_made_by_storing_and_keep_instances_apart(service, client, url):
    path = "partitions/research/studies"
    assert client.delete(f"{path}/1.2").status_code == 400  # does not exist yet
    response = client.post(path, content=multipart(dicom()), headers=MULTIPART)
    assert response.status_code == 200
    retrieve = response.json()["00081199"]["Value"][0]["00081190"]["Value"][0]
    assert retrieve.startswith(f"{url}/v2/partitions/research/studies/1.2/")
    assert client.post("studies", content=multipart(dicom()), headers=MULTIPART).status_code == 200
    partitions = client.get("partitions").json()
    assert [partition["partitionName"] for partition in partitions] == ["Microsoft.Default", "research"]
    assert client.delete(f"{path}/1.2").status_code == 204
    assert service.instance_count() == 1


def test_invalid_partition_name_is_refused(client):
    assert client.post("partitions/a b/studies", content=multipart(dicom()), headers=MULTIPART).status_code == 400


def test_bulk_update_is_an_operation_that_changes_every_instance(service, client, feed):
    service.store_metadata(metadata_of())
    service.store_metadata(metadata_of(instance="1.2.3.5"))
    body = {"studyInstanceUids": ["1.2"], "changeDataset": renamed("New^Name")}
    response = client.post("studies/$bulkUpdate", json=body)
    assert response.status_code == 202
    operation = client.get(response.json()["href"])
    assert operation.status_code == 200
    assert operation.json()["operationId"] == response.json()["id"]
    assert operation.json()["status"] == "succeeded"
    assert operation.json()["results"] == {"studyUpdated": 1, "instanceUpdated": 2}
    assert [entry["action"] for entry in feed()] == ["Create", "Create", "Update", "Update"]
    assert {name_in(entry) for entry in feed()} == {"New^Name"}


def test_bulk_update_of_an_unknown_study_fails_as_an_operation(client):
    body = {"studyInstanceUids": ["1.2"], "changeDataset": renamed("New^Name")}
    state = client.get(client.post("studies/$bulkUpdate", json=body).json()["href"]).json()
    assert (state["status"], state["results"]["studyFailed"]) == ("failed", 1)


def test_bulk_update_in_a_partition(service, client):
    service.store_metadata(metadata_of(), partition="research")
    body = {"studyInstanceUids": ["1.2"], "changeDataset": renamed("New^Name")}
    assert client.post("partitions/research/studies/$bulkUpdate", json=body).status_code == 202
    assert name_in(service.latest()) == "New^Name"


def test_bulk_update_of_other_attributes_is_refused(service, client):
    service.store_metadata(metadata_of())
    body = {"studyInstanceUids": ["1.2"], "changeDataset": {"00080060": {"vr": "CS", "Value": ["MR"]}}}
    response = client.post("studies/$bulkUpdate", json=body)
    assert response.status_code == 400
    assert "00080060" in response.json()["00741048"]["Value"][0]["00000902"]["Value"][0]
    assert service.change_count() == 1


@pytest.mark.parametrize(
    "body",
    [
        b"no JSON",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b'{"studyInstanceUids": [], "changeDataset": {}}',
        b'{"studyInstanceUids": ["abc"], "changeDataset": {}}',
        b'{"studyInstanceUids": ["1.2"]}',
        b'{"studyInstanceUids": [' + b'"1.2",' * 50 + b'"1.2"], "changeDataset": {}}',
    ],
)
def test_bulk_update_needs_studies_and_changes(client, body):
    headers = {"Content-Type": "application/json"}
    assert client.post("studies/$bulkUpdate", content=body, headers=headers).status_code == 400


def test_bulk_update_takes_json_only(client):
    assert client.post("studies/$bulkUpdate", content=b"", headers={"Content-Type": "text/plain"}).status_code == 415


@pytest.mark.parametrize("operation", ["nonsense", "1323c079a1b64efcb8943ef7707b5438"])
def test_unknown_operation(client, operation):
    assert client.get(f"operations/{operation}").status_code == 404


@pytest.mark.parametrize(
    ("version", "status"), [("1", 400), ("0", 400), ("1.0-prerelease", 400), ("x", 400), ("2", 200), ("3", 200)]
)
def test_api_versions(url, version, status):
    assert httpx.get(f"{url}/v{version}/changefeed").status_code == status


def test_unknown_path_and_method(client):
    assert client.get("nothing").status_code == 404
    assert client.put("studies").status_code == 405


@pytest.mark.parametrize(
    ("header", "status"), [(None, 401), ("Bearer wrong", 401), ("Basic secret", 401), ("bearer secret", 200)]
)
def test_token(service, header, status):
    with serve(service, token="secret") as url:
        response = httpx.get(f"{url}/v2/changefeed", headers={"Authorization": header} if header else {})
    assert response.status_code == status
    assert response.headers.get("WWW-Authenticate") == (None if status == 200 else "Bearer")


def jwt(claims: object) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, claims)]
    return ".".join([*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), ""])


NOW = int(time.time())
LIVING = {"nbf": NOW - 60, "exp": NOW + 86400}


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (jwt({"aud": "https://dicom.example", **LIVING}), 200),
        (jwt({"aud": "https://dicom.example/", "exp": NOW + 86400}), 200),
        (jwt({"aud": "https://other.example", **LIVING}), 401),
        (jwt(LIVING), 401),
        (jwt({"aud": "https://dicom.example", "nbf": NOW - 60, "exp": NOW - 1}), 401),
        (jwt({"aud": "https://dicom.example", "nbf": NOW + 86400, "exp": NOW + 2 * 86400}), 401),
        (jwt({"aud": "https://dicom.example"}), 401),
        (jwt(["aud"]), 401),
        ("a.b", 401),
        ("a.b.c", 401),
    ],
    # A token holds the time of its making: as a name it would differ from process to process.
    ids=[
        "for-this",
        "for-this-with-a-slash",
        "for-another",
        "for-none",
        "expired",
        "not-yet-valid",
        "without-an-end",
        "no-claims",
        "two-parts",
        "no-base64",
    ],
)
def test_token_is_for_the_audience_and_lives(service, given, status):
    with serve(service, audience="https://dicom.example") as url:
        response = httpx.get(f"{url}/v2/changefeed", headers={"Authorization": f"Bearer {given}"})
        assert httpx.get(f"{url}/v2/changefeed").status_code == 401
    assert response.status_code == status
    if status == 401:
        assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


def test_pages_that_are_too_heavy_answer_504_and_smaller_ones_come(service):
    with service.transaction():
        for number in range(6):
            service.store_metadata(metadata_of(instance=f"1.{number}", name="x" * 1000 * (number == 4)))
    by_bytes = {"max_page_bytes": 2000}
    by_entries = {"max_page_entries": 4}
    for limits, passing, heavy in (by_bytes, 2, 6), (by_entries, 4, 5):
        with serve(service, **limits) as url, httpx.Client(base_url=f"{url}/v2/") as client:
            assert client.get("changefeed", params={"limit": heavy}).status_code == 504
            whole = []
            while page := client.get("changefeed", params={"limit": passing, "offset": len(whole)}).json():
                whole += page
            assert whole == service.change_feed()
    with serve(service, **by_bytes) as url:
        assert len(httpx.get(f"{url}/v2/changefeed?includeMetadata=false").json()) == 6


def test_interceptor_may_answer_first(service):
    answers = iter([Response(status_code=503, headers={"Retry-After": "1"}), None])
    with serve(service, intercept=lambda _: next(answers)) as url:
        busy = httpx.get(f"{url}/v2/changefeed")
        assert (busy.status_code, busy.headers["Retry-After"]) == (503, "1")
        assert httpx.get(f"{url}/v2/changefeed").status_code == 200
