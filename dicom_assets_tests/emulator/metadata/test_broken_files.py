"""Broken DICOM files: each is refused alone, or loses the elements that cannot be read; the service stays up."""

import json
import random
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import httpx
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicom_assets.emulator.datasets.history import write_history
from dicom_assets.emulator.datasets.sources import folder_files
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.metadata.data_set import build_dataset, encode
from dicom_assets.emulator.store.store import Service
from dicom_assets_tests.emulator.conftest import START, metadata_of, renamed
from dicom_assets_tests.emulator.http.test_app import MULTIPART, multipart, reasons
from dicom_assets_tests.processes import PATIENCE_SECONDS

BUNDLED = Path(str(resources.files("pydicom"))) / "data" / "test_files"
UNDEFINED = b"\xff\xff\xff\xff"
SEQUENCE, ITEM = b"\x40\x00\x30\xa7SQ\0\0", b"\xfe\xff\x00\xe0"
ENDS = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"


def good(instance="9.9"):
    return encode(build_dataset(metadata_of(instance=instance)))


def nested(depth, instance="1.1"):
    """A file with sequences of undefined length in one another."""
    return good(instance) + (SEQUENCE + UNDEFINED + ITEM + UNDEFINED) * depth + ENDS * depth


def nested_by_length(depth, instance="1.2"):
    content = b""
    for _ in range(depth):
        item = ITEM + len(content).to_bytes(4, "little") + content
        content = SEQUENCE + len(item).to_bytes(4, "little") + item
    return good(instance) + content


def deflated():
    dataset = build_dataset(metadata_of(instance="1.3"))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return encode(dataset)


def with_sequence():
    metadata = metadata_of(instance="1.4")
    metadata["0040A730"] = {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["1"]}}] * 3}
    return encode(build_dataset(metadata))


BROKEN = {
    "nested-200": nested(200, "1.5"),
    "nested-1000": nested(1000),
    "nested-by-length-1000": nested_by_length(1000),
    "cut-in-a-sequence": with_sequence()[:-9],
    "cut-in-an-undefined-sequence": nested(3, "1.6")[:-20],
    "cut-in-the-deflated-part": deflated()[:-20],
    "three-bytes-of-a-number": good("1.7") + b"\x28\x00\x10\x00US\x03\x00\1\2\3",
    "length-beyond-the-end": good("1.8") + b"\x28\x00\x10\x00US\xfe\xff\1\2",
    "invalid-uid": good("1.9").replace(b"1.2.840.10008.5.1.4.1.1.2\0", b"1.2.840.10008.5.1.4.1.1.x\0"),
    "cut-in-the-header": good()[:140],
    "no-dicom": b"hello",
    "empty": b"",
}


def outcome(response):
    """The numbers of files stored and refused."""
    body = response.json()
    return len(body.get("00081199", {}).get("Value", ())), len(body.get("00081198", {}).get("Value", ()))


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_broken_file_is_refused_alone_or_loses_elements_with_a_warning(client, feed, content):
    response = client.post("studies", content=multipart(content, good()), headers=MULTIPART)
    stored, refused = outcome(response)
    assert (stored, refused) in ((1, 1), (2, 0))
    if refused:
        assert response.status_code == 202
        assert reasons(response)[0] in (272, 43264)
    else:  # what pydicom reads without complaint needs no warning
        warned = "00081196" in response.json()["00081199"]["Value"][0]
        assert response.status_code == (202 if warned else 200)
    assert "9.9" in [entry["sopInstanceUid"] for entry in feed()]
    if refused:
        alone = client.post("studies", content=multipart(content), headers=MULTIPART)
        assert (alone.status_code, outcome(alone)) == (409, (0, 1))


def test_number_of_three_bytes_costs_its_element_alone(client, feed):
    content = BROKEN["three-bytes-of-a-number"]
    response = client.post("studies", content=content, headers={"Content-Type": "application/dicom"})
    assert response.status_code == 202
    assert "(0028,0010)" in response.text
    assert feed()[0]["metadata"] == metadata_of(instance="1.7")


@pytest.mark.parametrize("depth", [1, 50, 100])
def test_nested_files_are_stored_updated_and_read(client, feed, depth):
    for make in (nested, nested_by_length):
        response = client.post("studies", content=make(depth), headers={"Content-Type": "application/dicom"})
        assert response.status_code == 200
        body = {"studyInstanceUids": ["1.2"], "changeDataset": renamed("New^Name")}
        assert client.post("studies/$bulkUpdate", json=body).status_code == 202
        assert json.dumps(feed()[-1]).count("0040A730") == depth
        assert client.delete("studies/1.2").status_code == 204


@pytest.fixture
def folder(tmp_path):
    """Broken files, a good one, and one without a preamble."""
    folder = tmp_path / "files"
    folder.mkdir()
    for name, content in BROKEN.items():
        (folder / f"{name}.dcm").write_bytes(content)
    (folder / "good.dcm").write_bytes(good())
    bare = good("8.8")
    (folder / "bare.dcm").write_bytes(bare[144 + int.from_bytes(bare[140:144], "little") :])
    (folder / "unreadable.dcm").symlink_to(folder / "nowhere")
    return folder


def test_history_goes_on_behind_files_that_cannot_be_stored(folder):
    skipped = {}
    with Service() as service:
        files = list(folder_files(folder, skip=skipped.setdefault, bare=True))
        history = write_history(
            service, start=START, hours=48, instances=5, files=files, skip=skipped.setdefault, seed=3
        )
        stored = {entry["sopInstanceUid"] for entry in service.change_feed()}
    assert {"9.9", "8.8"} <= stored
    assert history.created >= 7
    assert history.refused >= 1
    assert {"no-dicom.dcm", "empty.dcm", "cut-in-the-header.dcm"} <= {path.name for path in skipped}


def test_file_that_vanishes_or_cannot_be_read_is_skipped(tmp_path):
    (tmp_path / "a.dcm").write_bytes(good("1.1"))
    (tmp_path / "b.dcm").write_bytes(good("1.2"))
    files = list(folder_files(tmp_path))
    (tmp_path / "a.dcm").unlink()
    skipped = {}
    with Service() as service:
        history = write_history(service, start=START, hours=48, instances=0, files=files, skip=skipped.setdefault)
        assert service.change_feed(limit=1)[0]["sopInstanceUid"] == "1.2"
    assert history.refused >= 1
    assert [path.name for path in skipped] == ["a.dcm"]


def mutants(count, seed):
    """Files of pydicom's, cut off or with bytes changed."""
    rng = random.Random(seed)
    sources = [path.read_bytes() for path in sorted(BUNDLED.glob("*.dcm")) if path.stat().st_size < 20_000]
    sources += [content for name, content in BROKEN.items() if name.startswith(("nested-200", "cut-in"))] + [deflated()]
    for _ in range(count):
        content = bytearray(rng.choice(sources))
        if rng.random() < 0.4:
            del content[rng.randrange(len(content)) :]
        for _ in range(rng.choice((0, 1, 1, 4, 16))):
            if content:
                content[rng.randrange(min(len(content), rng.choice((600, 20_000))))] = rng.randrange(256)
        yield bytes(content)


@contextmanager
def serving(service):
    with serve(service) as url, httpx.Client(base_url=f"{url}/v2/", timeout=PATIENCE_SECONDS) as client:
        yield client


@pytest.mark.parametrize("strict", [False, True])
def test_service_outlives_mutated_files(tmp_path, strict):
    options = {"keep_padding": strict, "validate": strict}
    with Service(file_store=tmp_path, **options) as service, serving(service) as client:
        for number in range(20):
            parts = list(mutants(15, number))
            body = multipart(*parts, good(f"7.{number}"))
            response = client.post("studies", content=body, headers=MULTIPART)
            assert response.status_code in (200, 202)
            assert sum(outcome(response)) == len(parts) + 1
        pages = [client.get("changefeed", params={"limit": 200, "offset": offset}).json() for offset in (0, 200)]
        entries = [entry for page in pages for entry in page]
        assert {f"7.{number}" for number in range(20)} <= {entry["sopInstanceUid"] for entry in entries}
        for study in sorted({entry["studyInstanceUid"] for entry in entries}):
            service.update(study, renamed("New^Name"))
            service.delete(study)
        assert service.instance_count() == 0
