"""A Spark session without Java: Sail as Spark Connect server in this process. Fabric and Databricks need none of it."""

import atexit
import os
from pathlib import Path

os.environ.setdefault("RUST_LOG", "error")  # Sail's log goes to where the cell's output goes

from pysail.spark import SparkConnectServer
from pyspark.sql import SparkSession


def open_session(lakehouse: str) -> SparkSession:
    """A session that knows the tables under `Tables/` of a folder by name, until the process ends."""
    tables = Path(lakehouse, "Tables")
    if not tables.is_dir():
        raise FileNotFoundError(
            f"There is no folder {tables}. `make notebooks` fills it; or say where the lakehouse is."
        )
    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    host, port = server.listening_address
    spark = SparkSession.builder.remote(f"sc://{host}:{port}").getOrCreate()
    atexit.register(server.stop)
    atexit.register(spark.stop)  # before the server
    for table in sorted(tables.iterdir()):
        spark.sql(f"CREATE TABLE {table.name} USING delta LOCATION '{table.resolve()}'")
    return spark
