"""What a worker of Celery is told: it lies in a folder of PYTHONPATH, under this name (docs/deploy.md)."""

import os

broker_url = result_backend = os.environ["DAGSTER_CELERY_URL"]
broker_connection_retry_on_startup = True  # the worker may be there before Redis
worker_concurrency = 1  # runs at a time; each may take DICOM_MAX_MEMORY_MB
worker_disable_prefetch = True  # a run that waits goes to a worker that is free, not behind another run
worker_max_tasks_per_child = 1  # a process for each run, killed without harm to others, and its memory comes back
