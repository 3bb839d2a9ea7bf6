from datetime import date

from dicom_assets.emulator.datasets.sources import bundled_files, folder_files, synthesize
from dicom_assets.emulator.metadata.data_set import build_dataset, first_value
from dicom_assets_tests.emulator.conftest import metadata_of

KEY = ("0020000D", "0020000E", "00080018")


def key_of(metadata):
    return tuple(first_value(metadata, tag) for tag in KEY)


def test_bundled_files_are_real_unique_and_in_a_stable_order():
    skipped = set()
    files = list(bundled_files(lambda _, reason: skipped.add(reason)))
    assert len(files) > 80
    assert len({(file.study, file.series, file.sop_instance) for file in files}) == len(files)
    assert files == list(bundled_files())
    assert skipped == {"no DICOM file", "no SOP class, UIDs or patient ID", "same instance as another file"}
    assert files[0].dataset().SOPInstanceUID == files[0].sop_instance


def test_service_takes_every_bundled_file(service):
    count = 0
    for count, file in enumerate(bundled_files(), 1):  # noqa: B007
        file.store(service)
    assert service.instance_count() == count


def test_folder_is_searched_to_the_bottom(tmp_path):
    (tmp_path / "deep").mkdir()
    build_dataset(metadata_of(instance="2")).save_as(tmp_path / "deep" / "b", enforce_file_format=True)
    build_dataset(metadata_of(instance="1")).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    build_dataset(metadata_of(instance="1")).save_as(tmp_path / "z.dcm", enforce_file_format=True)
    (tmp_path / "readme.txt").write_text("no DICOM")
    skipped = {}
    files = list(folder_files(tmp_path, skip=skipped.setdefault))
    assert [file.sop_instance for file in files] == ["1", "2"]
    assert skipped == {
        tmp_path / "z.dcm": "same instance as another file",
        tmp_path / "readme.txt": "no DICOM file",
    }
    assert [file.dataset().SOPInstanceUID for file in files] == ["1", "2"]


def test_synthesized_metadata_is_fixed_by_the_seed():
    assert list(synthesize(200, seed=1)) == list(synthesize(200, seed=1))
    assert {key_of(m) for m in synthesize(200, seed=1)}.isdisjoint(key_of(m) for m in synthesize(200, seed=2))


def test_synthesized_instances_are_nested_and_unique():
    made = list(synthesize(1000))
    assert len(made) == len({key_of(metadata) for metadata in made}) == 1000
    series = {key_of(metadata)[1]: key_of(metadata)[0] for metadata in made}
    assert 1 < len(set(series.values())) < len(series) < 1000
    assert all(series[key_of(metadata)[1]] == key_of(metadata)[0] for metadata in made)
    assert all(len(uid) <= 64 for metadata in made for uid in key_of(metadata))


def test_synthesized_studies_have_one_patient_and_series_one_modality():
    studies, series = {}, {}
    for metadata in synthesize(1000, day=date(2025, 12, 31)):
        study, series_uid, _ = key_of(metadata)
        assert studies.setdefault(study, metadata["00100020"]) == metadata["00100020"]
        assert series.setdefault(series_uid, metadata["00080060"]) == metadata["00080060"]
        assert first_value(metadata, "00080020") == "20251231"
        assert list(metadata) == sorted(metadata)


def test_synthesizing_none_gives_none():
    assert list(synthesize(0)) == []
