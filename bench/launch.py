"""Runs a command, and says in a last line of standard error what it cost: `python bench/launch.py COMMAND …`.

A process starts with the peak memory of the one that it was forked from: hence this small one in between.
"""

import json
import os
import subprocess
import sys
import time

started = time.perf_counter()
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
cost = {
    "wall_seconds": time.perf_counter() - started,
    "cpu_seconds": usage.ru_utime + usage.ru_stime,
    "peak_mib": usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2),
}
print(f"\n{json.dumps(cost)}", file=sys.stderr)
sys.exit(process.returncode)
