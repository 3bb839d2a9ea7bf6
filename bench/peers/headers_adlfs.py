"""Headers by adlfs: the first bytes of 32 blobs at the same time, more where pydicom asks for it."""

import io
import json
import sys
import time
from functools import partial
from pathlib import Path

from adlfs import AzureBlobFileSystem
from growing import FIRST_BYTES, Growing, describe, say

url, key, container, listing = sys.argv[1:5]
paths = [f"{container}/{path}" for path in json.loads(Path(listing).read_text())]
account = url.rsplit("/", 1)[1]
fs = AzureBlobFileSystem(
    connection_string=f"DefaultEndpointsProtocol=http;AccountName={account};AccountKey={key};BlobEndpoint={url};"
)


def fetch(path: str, start: int, count: int) -> bytes:
    return fs.cat_file(path, start=start, end=start + count)


started = time.perf_counter()
headers = []
for first in range(0, len(paths), 256):
    part = paths[first : first + 256]
    contents = fs.cat_ranges(part, [0] * len(part), [FIRST_BYTES] * len(part), batch_size=32)
    headers += [
        describe(io.BufferedReader(Growing(content, partial(fetch, path)), FIRST_BYTES))
        for path, content in zip(part, contents, strict=True)
    ]
say(started, headers)
