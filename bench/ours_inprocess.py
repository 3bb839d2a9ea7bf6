"""All five tables, in this process, without Dagster.

python -m bench.ours_inprocess URL FOLDER START END [SPARK_REMOTE]
"""

import time

began = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402

from bench.ours import open_lake, parse_window, run_chain  # noqa: E402
from dicom_assets.service.client import DicomService  # noqa: E402


def main(url: str, folder: str, start: str, end: str, spark_remote: str = "") -> None:
    started = time.perf_counter()
    with DicomService(url) as client:
        costs = run_chain(client, open_lake(folder, spark_remote), parse_window(start, end))
    seconds = time.perf_counter() - started
    tables = {name: cost["seconds"] for name, cost in costs.items()}
    print(json.dumps({"seconds": seconds, "import_seconds": started - began, "tables": tables}))


if __name__ == "__main__":
    main(*sys.argv[1:6])
