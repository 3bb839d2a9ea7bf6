"""Makes `padded.tar.gz`: a lake that version 0.1.0 filled, before it knew of padding.

Run in a checkout of commit 192d925: `python make_padded.py TARGET`. Entries come from its own embedded service; what
they show is padded as the real service shows it.
"""

import json
import sys
import tarfile
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from dicom_assets.core.tables.change_feed import parse_page
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.emulator.store.store import Service
from dicom_assets_tests.lakes.building import build_lake
from dicom_assets_tests.law.world import CHAIN, START, World, hours

UIDS = ("studyInstanceUid", "seriesInstanceUid", "sopInstanceUid")
PADDINGS = ("", " ", "", "\0")


class PaddedWorld(World):
    """A service that shows UIDs with and without padding, and has lost the metadata of one instance."""

    def fetch_pages(self, window):
        page = self.service.change_feed(start=window.start, end=window.end, limit=200)
        for entry in page:
            for place, name in enumerate(UIDS):
                entry[name] += PADDINGS[(entry["sequence"] + place) % len(PADDINGS)]
            if entry["sopInstanceUid"].strip(" \0") == "1.4.1.1":
                entry.pop("metadata", None)
        self.read.extend(page)
        yield parse_page(json.dumps(page).encode())


def element(vr, value):
    return {"vr": vr, "Value": [value]}


def fill(service):
    """Studies that are stored, corrected and deleted in three hours."""
    for study in range(1, 6):
        for instance in (1, 2):
            service.store_metadata(
                {
                    "00080018": element("UI", f"1.{study}.1.{instance}\0"),
                    "0020000D": element("UI", f"1.{study}"),
                    "0020000E": element("UI", f"1.{study}.1"),
                    "00080020": element("DA", "20260301\0"),
                    "00080060": element("CS", ("CT", "CT\0", "MR ")[(study + instance) % 3]),
                    "00100010": {"vr": "PN", "Value": [{"Alphabetic": f"Test^{study} "}]},
                    "00100020": element("LO", f"{study}\0"),
                    "00200013": element("IS", f"{instance} \0"),
                }
                if study != 5
                else {
                    "00080018": element("UI", f"1.5.1.{instance}"),
                    "0020000D": element("UI", "1.5"),
                    "0020000E": element("UI", "1.5.1"),
                    "00100020": element("LO", "5"),
                },
                at=START + timedelta(minutes=study, seconds=instance),
                file_path=f"AHDS/{study}_{instance}.dcm",
            )
    service.update("1.1", {"00081030": element("LO", "later")}, at=START + timedelta(hours=1))
    service.delete("1.2", at=START + timedelta(hours=1, minutes=1))
    service.delete("1.3", "1.3.1", "1.3.1.1\0", at=START + timedelta(hours=2))
    service.delete("1.5", "1.5.1", "1.5.1.2", at=START + timedelta(hours=2, minutes=1))


def main(target: Path) -> None:
    with TemporaryDirectory() as folder, Service(seed=1) as service:
        fill(service)
        lake = build_lake(folder)
        world = PaddedWorld(service, lake)
        for hour in range(3):
            for name in (*CHAIN, HEALTHCARE_INSTANCE.name):
                world.run(name, hours(hour))
        Path(folder, "read.json").write_text(json.dumps(world.read))
        with tarfile.open(target, "w:gz") as archive:
            archive.add(folder, arcname=".")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
