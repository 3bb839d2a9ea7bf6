import subprocess
import sys

CODE = """
import pyarrow as pa
from dicom_assets.adapters.memory import choose_memory_pool
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
