"""Headers by azure-storage-blob: the first bytes in 32 threads with as many connections, more where pydicom asks."""

import io
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from azure.storage.blob import ContainerClient
from growing import FIRST_BYTES, Growing, describe, say
from requests.adapters import HTTPAdapter

url, key, container, listing = sys.argv[1:5]
paths = json.loads(Path(listing).read_text())
session = requests.Session()
session.mount("http://", HTTPAdapter(pool_connections=32, pool_maxsize=32))
client = ContainerClient(url, container, credential=key, session=session)


def header(path: str) -> str:
    def fetch(start: int, count: int) -> bytes:
        return client.download_blob(path, offset=start, length=count).readall()

    return describe(io.BufferedReader(Growing(fetch(0, FIRST_BYTES), fetch), FIRST_BYTES))


started = time.perf_counter()
with ThreadPoolExecutor(32) as pool:
    headers = list(pool.map(header, paths))
say(started, headers)
