"""dlt as its documentation shows it: the REST source, a primary key, `upsert` into a Delta table."""

from typing import Any

import dlt
from common import KEY, PAGE, Window, main
from dlt.sources.rest_api import rest_api_source


def run(url: str, folder: str, window: Window) -> dict[str, Any]:
    base, path = url.rsplit("/", 1)
    source = rest_api_source(
        {
            "client": {
                "base_url": f"{base}/",
                "paginator": {
                    "type": "offset",
                    "limit": PAGE,
                    "offset": 0,
                    "total_path": None,
                    "stop_after_empty_page": True,
                },
            },
            "resources": [
                {
                    "name": "instance",
                    "endpoint": {"path": path, "params": window},
                    "primary_key": list(KEY),
                    "write_disposition": {"disposition": "merge", "strategy": "upsert"},
                    "table_format": "delta",
                    # Without this every element of the metadata becomes a table.
                    "columns": {"metadata": {"data_type": "json"}},
                }
            ],
        }
    )
    pipeline = dlt.pipeline(
        "dicom",
        destination=dlt.destinations.filesystem(folder),
        dataset_name="lake",
        pipelines_dir=f"{folder}/dlt",
    )
    pipeline.run(source)
    return {"rows": sum(pipeline.last_trace.last_normalize_info.row_counts.values())}


if __name__ == "__main__":
    main(run)
