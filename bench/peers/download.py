"""The floor: the pages of the window, eight at a time, and nothing done with them."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import httpx
from common import PAGE, TIMEOUT, Window, main

CONCURRENCY = 8


def run(url: str, _folder: str, window: Window) -> dict[str, Any]:
    offsets, lock = count(0, PAGE), threading.Lock()

    def download() -> int:
        size = 0
        while True:
            with lock:
                offset = next(offsets)
            body = client.get(url, params={**window, "offset": str(offset), "limit": str(PAGE)}).content
            if body == b"[]":
                return size
            size += len(body)

    limits = httpx.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY)
    with (
        httpx.Client(timeout=TIMEOUT, limits=limits, trust_env=False) as client,
        ThreadPoolExecutor(CONCURRENCY) as pool,
    ):
        return {"bytes": sum(pool.map(lambda _: download(), range(CONCURRENCY)))}


if __name__ == "__main__":
    main(run)
