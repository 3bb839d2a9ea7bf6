"""A run in a process of its own that kills itself (SIGKILL) at its Nth boundary: arguments are the folder, hour and N.

A boundary lies before and after every file that is written, every commit and every table that is created. The answer is
how many there are, when N is beyond the last.
"""

from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.files import data_file
from dicom_assets.lake.files.folder import Files
from dicom_assets.lake.table.delta import Lake
from dicom_assets_tests.lakes.building import build_lake
from dicom_assets_tests.law.boundaries import die_at, serve_forks
from dicom_assets_tests.law.test_order import apply
from dicom_assets_tests.law.world import World, hours

DEFAULT, OTHER = "Microsoft.Default", "research"
KEYS = [("1.1", f"1.1.{series}", f"1.1.{series}.{instance}") for series in (1, 2) for instance in (1, 2)]
CT = {"00080060": {"vr": "CS", "Value": ["CT"]}}
FIRST_HOUR = [(("store", DEFAULT, key, CT), (0, 0)) for key in KEYS[:3]]
SECOND_HOUR = [
    (("store", OTHER, KEYS[0], CT), (1, 0)),
    (("delete", DEFAULT, KEYS[0], 3), (1, 1)),
    (("update", DEFAULT, KEYS[1], "corrected"), (1, 1)),
    (("delete", DEFAULT, KEYS[2], 2), (1, 1800)),
    (("store", DEFAULT, KEYS[2], {}), (1, 3599)),
]


def build_world(service: Service, folder: str) -> World:
    return World(service, build_lake(folder), encoded_rows=2, spoiled={(DEFAULT, KEYS[1][2])})


def play(service: Service, changes) -> None:
    for change, moment in changes:
        apply(service, change, moment)


def main(folder: str, hour: int, fatal: int) -> int:
    data_file.JOINED_FILES = 2  # so that joining files has its boundaries too
    passed = die_at(fatal, ((Files, "_write_file"), (Lake, "_commit"), (Lake, "_create")))
    with Service(seed=1) as service:
        play(service, FIRST_HOUR)
        world = build_world(service, folder)
        if hour == 1:
            play(service, SECOND_HOUR)
        world.run_chain(hours(hour))
    return passed()


if __name__ == "__main__":
    serve_forks(main)
