"""Would tables sorted by study or patient pay? Counts files and bytes, not seconds: `python -m bench.clustering`.

The history as its hours left it, beside the same rows sorted, as a whole or within days. Of each: in how many files a
reader must look for one study or one patient, by the ranges that prune, and what it reads of the column there; and how
many files an hour's corrections are spread over, which is what its merge rewrites.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.feed import CACHE
from bench.history import ROWS_PER_HOUR, STUDY_SIZE, build_history, whole_hours
from bench.ours import open_lake
from dicom_assets.core.columns.schema import INSTANCE
from dicom_assets.lake.files.parquet import ROWS_PER_FILE

_COLUMNS = ("studyInstanceUid", "patientId")
_LOOKUPS = 200
_STUDIES_PER_HOUR = 30
"""Studies of the last day that an hour corrects: 2,000 instances."""


def count_files(files: Sequence[pa.Table], studies: Sequence[str], patients: Sequence[str]) -> dict[str, object]:
    """What a lookup reads on average, and an hour rewrites."""
    ranges = {name: [pc.min_max(file[name]).as_py() for file in files] for name in _COLUMNS}
    held = [set(pc.unique(file["studyInstanceUid"]).to_pylist()) for file in files]

    sizes = {name: [_column_bytes(file, name) for file in files] for name in _COLUMNS}

    def looked_into(name: str, values: Sequence[str]) -> dict[str, float]:
        hits = [
            size
            for value in values
            for span, size in zip(ranges[name], sizes[name], strict=True)
            if span["min"] <= value <= span["max"]
        ]
        return {"files": round(len(hits) / len(values), 1), "kilobytes": round(sum(hits) / len(values) / 1024, 1)}

    return {
        "files": len(files),
        "read_for_a_study": looked_into("studyInstanceUid", studies),
        "read_for_a_patient": looked_into("patientId", patients),
        "files_an_hour_rewrites": sum(not of_file.isdisjoint(studies[:_STUDIES_PER_HOUR]) for of_file in held),
    }


def _column_bytes(rows: pa.Table, name: str) -> int:
    """What the column takes in a file."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows.select([name]), sink, compression="zstd", compression_level=1, row_group_size=len(rows))
    return pq.read_metadata(pa.BufferReader(sink.getvalue())).row_group(0).column(0).total_compressed_size


def split(rows: pa.Table) -> list[pa.Table]:
    parts = -(-len(rows) // ROWS_PER_FILE)
    edges = [len(rows) * part // parts for part in range(parts + 1)]
    return [rows.slice(start, end - start) for start, end in pairwise(edges)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Would tables sorted by study or patient pay?")
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        build_history(Path(folder), whole_hours(options.rows))
        snapshot = open_lake(folder).open(INSTANCE)
        assert snapshot is not None
        files = [rows for _, rows in snapshot.read(_COLUMNS)]
    rows = pa.concat_tables(files)
    chance = random.Random(1)
    recent = range(max(0, len(rows) - 24 * ROWS_PER_HOUR) // STUDY_SIZE, len(rows) // STUDY_SIZE)
    places = [study * STUDY_SIZE for study in chance.sample(recent, min(_LOOKUPS, len(recent)))]
    chosen = rows.take(places)
    studies, patients = (chosen[name].to_pylist() for name in _COLUMNS)
    layouts = {"in order of arrival": files}
    days = [pa.concat_tables(files[first : first + 24]) for first in range(0, len(files), 24)]
    for name in _COLUMNS:
        layouts[f"sorted by {name}"] = split(rows.sort_by(name))
        layouts[f"days sorted by {name}"] = [part for day in days for part in split(day.sort_by(name))]
    for name, layout in layouts.items():
        print(f"{name}: {json.dumps(count_files(layout, studies, patients))}", flush=True)


if __name__ == "__main__":
    main()
