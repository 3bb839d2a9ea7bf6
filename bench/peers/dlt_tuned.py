"""dlt by someone who knows its traps.

- Pages are fetched eight at a time, and parsed by orjson.
- A load must not bring an instance twice, and the first load into a table appends, whatever the disposition. So the
  window is folded here, and an empty load makes the table before the first one.
- Rows are one Arrow table: dlt's normalizer does not look at each value.
- `hard_delete` deletes what is marked.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import dlt
import httpx
import orjson
import pyarrow as pa
from common import ELEMENTS, KEY, PAGE, TIMEOUT, Rows, Window, attributes, is_deleted, main, newest

CONCURRENCY = 8
SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in KEY),
        pa.field("sequence", pa.int64()),
        pa.field("lastModifiedTimestamp", pa.string()),
        pa.field("filePath", pa.string()),
        *(pa.field(name, pa.string()) for name in ELEMENTS),
        pa.field("deleted", pa.bool_()),
    ]
)


def fetch(url: str, window: Window) -> Iterator[Rows]:
    offsets = count(0, PAGE)
    limits = httpx.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY)
    with (
        httpx.Client(timeout=TIMEOUT, limits=limits, trust_env=False) as client,
        ThreadPoolExecutor(CONCURRENCY) as pool,
    ):

        def page(offset: int) -> Rows:
            params = {**window, "offset": str(offset), "limit": str(PAGE)}
            return orjson.loads(client.get(url, params=params).content)

        while True:
            pages = list(pool.map(page, [next(offsets) for _ in range(CONCURRENCY)]))
            yield from pages
            if len(pages[-1]) < PAGE:
                return


@dlt.resource(
    name="instance",
    primary_key=KEY,
    write_disposition={"disposition": "merge", "strategy": "upsert"},
    table_format="delta",
    columns={"deleted": {"data_type": "bool", "hard_delete": True}},
)
def instance(rows: pa.Table) -> Iterator[pa.Table]:
    yield rows


def run(url: str, folder: str, window: Window) -> dict[str, Any]:
    pipeline = dlt.pipeline(
        "dicom",
        destination=dlt.destinations.filesystem(folder),
        dataset_name="lake",
        pipelines_dir=f"{folder}/dlt",
    )
    if pipeline.first_run:
        pipeline.run(instance(SCHEMA.empty_table()), loader_file_format="parquet")
    entries = [entry for page in fetch(url, window) for entry in page]
    rows = [{**attributes(entry), "deleted": is_deleted(entry)} for entry in newest(entries)]
    pipeline.run(instance(pa.Table.from_pylist(rows, SCHEMA)), loader_file_format="parquet")
    return {"rows": len(rows)}


if __name__ == "__main__":
    main(run)
