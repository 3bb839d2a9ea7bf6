"""The extraction alone: the project's client, and Arrow rows of `change_feed` that go nowhere.

python -m bench.ours_extract URL FOLDER START END
"""

import time

began = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402

from bench.ours import extraction, parse_window  # noqa: E402
from dicom_assets.service.client import DicomService  # noqa: E402


def main(url: str, start: str, end: str) -> None:
    started = time.perf_counter()
    with DicomService(url) as client:
        rows = sum(len(batch.desired.keys) for batch in extraction(client, parse_window(start, end)))
    seconds = time.perf_counter() - started
    print(json.dumps({"rows": rows, "seconds": seconds, "import_seconds": started - began}))


if __name__ == "__main__":
    main(sys.argv[1], *sys.argv[3:5])
