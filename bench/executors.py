"""The project's definitions with another executor, as a code location: `dagster dev -m bench.executors`.

BENCH_EXECUTOR names it. Without sensors, since nothing is to run that was not launched.
"""

import os

import dagster as dg

from dicom_assets import definitions  # not its defs: Dagster refuses two in a module

EXECUTORS = {"in_process": dg.in_process_executor, "multiprocess": dg.multiprocess_executor}

defs = dg.Definitions(
    assets=definitions.defs.assets,
    asset_checks=definitions.defs.asset_checks,
    resources=definitions.defs.resources,
    executor=EXECUTORS[os.environ["BENCH_EXECUTOR"]],
)
