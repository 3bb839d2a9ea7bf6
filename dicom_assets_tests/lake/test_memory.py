import platform
import subprocess
import sys

import pyarrow as pa
import pytest

from dicom_assets.core.columns.schema import CHANGE_FEED
from dicom_assets.core.memory import DEFAULT_MEGABYTES, LEAST_MEGABYTES, MemoryLimit
from dicom_assets_tests.core.tables.rows import START, entry
from dicom_assets_tests.lakes.building import build_lake, store
from dicom_assets_tests.processes import clean_environment

CODE = """
import pyarrow as pa
from dicom_assets.lake.memory import choose_memory_pool
if {absent}:
    def jemalloc_memory_pool(): raise NotImplementedError
    pa.jemalloc_memory_pool = jemalloc_memory_pool
before = pa.default_memory_pool().backend_name
choose_memory_pool()
print(before, pa.default_memory_pool().backend_name, "jemalloc" in pa.supported_memory_backends())
"""


def pools(absent: bool) -> list[str]:
    command = [sys.executable, "-c", CODE.format(absent=absent)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_memory_comes_from_jemalloc_where_there_is_one():
    before, after, there_is_one = pools(absent=False)
    assert after == ("jemalloc" if there_is_one == "True" else before)


def test_memory_comes_from_where_it_came_where_there_is_none():
    before, after, _ = pools(absent=True)
    assert after == before


TAKEN = """
import dicom_assets.definitions
import pyarrow as pa
import pyarrow.parquet as pq
rows = pa.table({"number": range(1000)})
pq.write_table(rows, pa.BufferOutputStream())
rows.group_by("number").aggregate([])
print(pa.mimalloc_memory_pool().max_memory(), pa.jemalloc_memory_pool().max_memory() > 0)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not {"jemalloc", "mimalloc"} <= set(pa.supported_memory_backends()),
    reason="Arrow has no choice",
)
def test_memory_of_the_code_location_comes_from_one_source_also_where_arrow_is_not_told_which(tmp_path):
    environment = clean_environment(DICOM_STORAGE_URL=str(tmp_path))
    environment.pop("ARROW_DEFAULT_MEMORY_POOL", None)  # as the definitions have set it for this process
    command = [sys.executable, "-c", TAKEN]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["0", "True"]


FREED = """
import ctypes, os
from pathlib import Path
from dicom_assets.lake.memory import release_memory
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
blocks = [c.malloc(100_000) for _ in range(1000)]
for block in blocks:
    ctypes.memset(block, 1, 100_000)
for block in blocks[:-1]:  # the last one keeps the allocator from shrinking its heap
    c.free(block)
before = held()
release_memory()
print(before - held())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left to themselves")
def test_free_memory_goes_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 80


MOST_HELD = """
import sys
from pathlib import Path
import pyarrow as pa
from dicom_assets.derive.derivation import InstanceDerivation
from dicom_assets.derive.feed_window import FeedWindow
from dicom_assets.core.tables.change_feed import HOUR, Window
from dicom_assets_tests.lakes.building import build_lake
from dicom_assets_tests.core.tables.rows import START
hours = FeedWindow(build_lake(Path(sys.argv[1])), Window(START, START + HOUR))
parts = [len(InstanceDerivation(part).build().rows) for part in hours.split(int(sys.argv[2]))]
print(len(parts), sum(parts), pa.default_memory_pool().max_memory())
"""


def test_fewer_entries_at_a_time_hold_less_memory(tmp_path):
    lake, instances, files = build_lake(tmp_path), 12_000, 12
    rows = [
        entry(number, windowStart=START, studyInstanceUid=str(number // 100), sopInstanceUid=str(number))
        for number in range(instances)
    ]
    for file in range(files):
        store(lake, *rows[file * instances // files : (file + 1) * instances // files], table=CHANGE_FEED)
    held = {}
    for entries in (instances, instances // 12):
        command = [sys.executable, "-c", MOST_HELD, str(tmp_path), str(entries)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        parts, found, bytes_held = map(int, done.stdout.split())
        assert found == instances
        held[parts] = bytes_held
    assert held[12] < held[1] / 2


@pytest.mark.parametrize("megabytes", [LEAST_MEGABYTES, DEFAULT_MEGABYTES, 64_000])
def test_work_in_parts_leaves_room_for_the_process(megabytes):
    limit = MemoryLimit(megabytes)
    assert 0 < limit.batch_bytes < (megabytes - 500) * 2**20 / 10
    assert 0 < 1500 * limit.entries < (megabytes - 500) * 2**20
