"""The headers of a thousand DICOM files in Azure storage, by every contender in turn: `python -m bench.headers --help`.

Files lie in Azurite, and so does the lake. Every contender is a whole process; they take turns (A B C A B C …), after
one round that does not count. Measured is the time from the first request to the last header, parsed by pydicom.
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench.azurite import ACCOUNT, Azurite, run_azurite
from bench.measure import ROOT, as_json, measure, save, summarize
from bench.run import PEERS_PYTHON

CONTENDERS = {
    "ours_headers": "**this project**, `iter_instances`",
    "headers_adlfs": "adlfs, 32 at a time",
    "headers_blob": "azure-storage-blob, 32 threads",
}
FILES, LAKE = "files", "lake"
PIXELS = 128 * 256 * 2
LONG_HEADERS = 50
"""One file in so many has a header that is longer than the first request brings."""


@dataclass(frozen=True)
class Scene:
    """Where the files and the lake are."""

    azurite: Azurite
    listing: Path
    """The files' paths, for those who have no lake to ask."""

    def run(self, name: str) -> dict[str, Any]:
        """A contender, as a process of its own."""
        if name.startswith("ours"):
            return as_json(measure([sys.executable, "-m", f"bench.{name}"], environment(self.azurite)))
        script = str(ROOT / "bench" / "peers" / f"{name}.py")
        arguments = [self.azurite.url, self.azurite.key, FILES, str(self.listing)]
        return as_json(measure([str(PEERS_PYTHON), script, *arguments]))


def environment(azurite: Azurite) -> dict[str, str]:
    """The project's settings for the emulator."""
    return {
        "DICOM_STORAGE_URL": azurite.url,
        "DICOM_CONTAINER_NAME": LAKE,
        "DICOM_FILE_SYSTEM_URL": f"abfss://{FILES}@{ACCOUNT}.dfs.core.windows.net",
        "DICOM_AUTHENTICATION": "none",
        "AZURE_STORAGE_ACCOUNT_KEY": azurite.key,
    }


@contextmanager
def scene(count: int) -> Iterator[Scene]:
    """So many files in Azurite, and a lake that knows them."""
    with run_azurite() as azurite, tempfile.TemporaryDirectory() as folder:
        rows = write_files(Path(folder, "files"), count)
        upload = [str(PEERS_PYTHON), str(ROOT / "bench" / "peers" / "upload.py"), azurite.url, azurite.key]
        measure([*upload, str(Path(folder, "files")), FILES, LAKE])
        rows_file = Path(folder, "rows.json")
        rows_file.write_text(json.dumps(rows))
        measure([sys.executable, "-m", "bench.headers", "fill", str(rows_file)], environment(azurite))
        listing = Path(folder, "listing.json")
        listing.write_text(json.dumps([row["filePath"] for row in rows]))
        yield Scene(azurite, listing)


def write_files(folder: Path, count: int) -> list[dict[str, Any]]:
    """Real metadata with pixels that are none; gives the rows of `file_index`, without their times."""
    from dicom_assets.emulator.datasets.sources import synthesize
    from dicom_assets.emulator.metadata.data_set import build_dataset, encode

    rows = []
    for number, metadata in enumerate(itertools.islice(synthesize(count), count)):
        dataset = build_dataset(metadata)
        if not number % LONG_HEADERS:
            dataset.private_block(0x0009, "BENCH", create=True).add_new(1, "UN", bytes(40_000))
        dataset.add_new(0x7FE00010, "OW", bytes(PIXELS))
        path = f"AHDS/bench/dicom/bench/Microsoft.Default/{number:05x}_{number}.dcm"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(encode(dataset))
        rows.append(
            {
                "partitionName": "Microsoft.Default",
                "studyInstanceUid": str(dataset.StudyInstanceUID),
                "seriesInstanceUid": str(dataset.SeriesInstanceUID),
                "sopInstanceUid": str(dataset.SOPInstanceUID),
                "sequence": number,
                "filePath": path,
            }
        )
    return rows


def fill(rows_file: str) -> None:
    """Brings the rows into the lake's `file_index`."""
    from datetime import UTC, datetime

    from dicom_assets.config.connections import build_lake
    from dicom_assets.config.settings import load_settings
    from dicom_assets.core.columns.schema import FILE_INDEX
    from dicom_assets.lake.table.writing import FixedRows

    given = json.loads(Path(rows_file).read_text())
    names = FILE_INDEX.schema.names
    changed = {"lastModifiedTimestamp": datetime.now(UTC)}
    rows = [{name: (row | changed).get(name) for name in names} for row in given]
    build_lake(load_settings()).write(FILE_INDEX, FixedRows(pa.Table.from_pylist(rows, FILE_INDEX.schema), FILE_INDEX))


def compare(count: int, rounds: int) -> dict[str, Any]:
    """All contenders, interleaved; the figures of each."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    with scene(count) as scene_:
        for number in range(rounds + 1):
            for name in CONTENDERS:
                result = scene_.run(name)
                print(f"round {number} {name}: {result['said']['seconds']:.2f} s", file=sys.stderr, flush=True)
                if number:
                    results[name].append(result)
    digests = {result["said"]["digest"] for each in results.values() for result in each}
    contenders = [_describe(name, results[name], count, digests) for name in CONTENDERS]
    return {"headers": count, "rounds": rounds, "contenders": contenders}


def _describe(name: str, results: list[dict[str, Any]], count: int, digests: set[str]) -> dict[str, Any]:
    seconds = summarize([result["said"]["seconds"] for result in results])
    return {
        "name": name,
        "label": CONTENDERS[name],
        "is_correct": len(digests) == 1 and all(result["said"]["headers"] == count for result in results),
        "headers_per_second": round(count / seconds["median"]),
        "seconds": seconds,
        "cpu_seconds": summarize([result["cpu_seconds"] for result in results]),
        "peak_mib": summarize([result["peak_mib"] for result in results]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The headers of a thousand files, by every contender in turn.")
    parser.add_argument("--headers", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3, help="that count; one more goes before")
    parser.add_argument("--publish", action="store_true", help="write to bench/results, not to the cache")
    options = parser.parse_args()
    result = compare(options.headers, options.rounds)
    for row in result["contenders"]:
        correct = "" if row["is_correct"] else "  NOT CORRECT"
        print(
            f"{row['label'].replace('*', ''):40} {row['headers_per_second']:>6,} headers/s "
            f"{row['seconds']['median']:6.2f} s {row['cpu_seconds']['median']:6.1f} CPU s{correct}"
        )
    print(f"\nWritten to {save('headers', result, publish=options.publish).relative_to(ROOT)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["fill"]:
        fill(sys.argv[2])
    else:
        main()
