"""The upkeep of `study` in a process of its own that kills itself (SIGKILL) at its Nth boundary.

A boundary lies before and after every file that is written or deleted, every commit, the checkpoint and the cleaning of
the log. Arguments are the folder and N; the answer is how many there are, when N is beyond the last.
"""

from deltalake import DeltaTable

from dicom_assets.core.columns.schema import STUDY
from dicom_assets.lake.files.folder import Files
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.upkeep import maintain
from dicom_assets_tests.lakes.building import build_lake
from dicom_assets_tests.law.boundaries import die_at, serve_forks

RETENTION = 100
STEPS = [
    (Files, "_write_file"),
    (Files, "_delete_file"),
    (Lake, "_commit"),
    (Lake, "keep_retention"),
    (DeltaTable, "create_checkpoint"),
    (DeltaTable, "cleanup_metadata"),
]


def main(folder: str, fatal: int) -> int:
    passed = die_at(fatal, STEPS)
    maintain(build_lake(folder, retention_hours=RETENTION), STUDY)
    return passed()


if __name__ == "__main__":
    serve_forks(main)
