"""Headers by this project's own `iter_instances`: found in file_index, opened 32 ahead."""

import sys
import time
from pathlib import Path

import pydicom  # noqa: F401 — the peers have imported it too when they begin

from bench.measure import ROOT
from dicom_assets import iter_instances

sys.path.insert(0, str(Path(ROOT / "bench" / "peers")))
from growing import describe, say

QUERY = "SELECT partitionName, studyInstanceUid, seriesInstanceUid, sopInstanceUid FROM file_index"


def main() -> None:
    started = time.perf_counter()
    say(started, map(describe, iter_instances(QUERY, read_ahead=32)))


if __name__ == "__main__":
    main()
