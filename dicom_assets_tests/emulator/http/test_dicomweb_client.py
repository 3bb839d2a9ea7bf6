"""A DICOMweb client that is not ours, against the embedded service."""

import pytest
import requests
from dicomweb_client import DICOMwebClient

from dicom_assets.emulator.datasets.sources import bundled_files
from dicom_assets.emulator.metadata.data_set import build_dataset
from dicom_assets_tests.emulator.conftest import metadata_of


@pytest.fixture
def dicomweb(url):
    session = requests.Session()
    yield DICOMwebClient(f"{url}/v2", session=session)
    session.close()


def test_bundled_files_are_stored_and_told(dicomweb, service):
    datasets = [
        dataset for dataset in (file.dataset() for file in bundled_files()) if dataset.get("Modality") in {"CT", "MR"}
    ]
    datasets = datasets[::8]
    answer = dicomweb.store_instances(datasets)
    assert len(answer.ReferencedSOPSequence) == len(datasets) >= 5
    told = [entry["sopInstanceUid"] for entry in service.change_feed()]
    assert told == [dataset.SOPInstanceUID for dataset in datasets]


def test_duplicate_is_refused(dicomweb):
    dicomweb.store_instances([build_dataset(metadata_of())])
    with pytest.raises(requests.HTTPError, match="409"):
        dicomweb.store_instances([build_dataset(metadata_of())])


def test_instance_of_another_study_is_refused(dicomweb):
    with pytest.raises(requests.HTTPError, match="409"):
        dicomweb.store_instances([build_dataset(metadata_of())], study_instance_uid="9.9")


def test_part_of_a_request_may_be_refused(dicomweb):
    one, two = build_dataset(metadata_of()), build_dataset(metadata_of(instance="1.2.3.5"))
    dicomweb.store_instances([one])
    answer = dicomweb.store_instances([one, two])
    assert answer.FailedSOPSequence[0].FailureReason == 45070
    assert answer.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.5"


def test_study_is_deleted_once(dicomweb, service):
    dicomweb.store_instances([build_dataset(metadata_of())])
    dicomweb.delete_study("1.2")
    assert service.instance_count() == 0
    with pytest.raises(requests.HTTPError, match="404"):
        dicomweb.delete_study("1.2")
