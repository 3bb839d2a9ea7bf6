"""Makes containers, and puts a folder's files into one of them: `upload.py URL KEY FOLDER FILES_CONTAINER OTHER…`."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from azure.storage.blob import BlobServiceClient

url, key, folder, files, *others = sys.argv[1:]
service = BlobServiceClient(url, credential=key)
for name in (files, *others):
    service.create_container(name)
container = service.get_container_client(files)
root = Path(folder)


def upload(path: Path) -> None:
    container.upload_blob(path.relative_to(root).as_posix(), path.read_bytes())


with ThreadPoolExecutor(8) as pool:
    list(pool.map(upload, (path for path in root.rglob("*") if path.is_file())))
