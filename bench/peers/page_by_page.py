"""A merge for every page, one after the other, as the Azure Data Factory template's loop does."""

from typing import Any

import httpx
from common import KEY, PAGE, TIMEOUT, Window, attributes, is_deleted, main, newest
from merge import merge


def run(url: str, folder: str, window: Window) -> dict[str, Any]:
    count = offset = 0
    with httpx.Client(timeout=TIMEOUT, trust_env=False) as client:
        while True:
            page = client.get(url, params={**window, "offset": offset, "limit": PAGE}).json()
            rows = [{**attributes(entry), "deleted": is_deleted(entry)} for entry in newest(page)]
            merge(f"{folder}/instance", rows, KEY)
            count += len(rows)
            if len(page) < PAGE:
                return {"rows": count}
            offset += PAGE


if __name__ == "__main__":
    main(run)
