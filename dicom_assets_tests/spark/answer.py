"""Run as a process of its own, with Spark 3.5 as `pyspark`: answers SQL, a line of JSON a statement, with Arrow tables.

Spark 3.5 knows no client of 4.2, and both are the module `pyspark`; so the tests ask it over a pipe (`classic.py`).
"""

import base64
import json
import os
import sys

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import to_arrow_schema


def main() -> None:
    """Answer statements until there are no more; Java ends with this process."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever Java prints is no answer
    builder = SparkSession.builder
    for name, value in json.loads(sys.argv[1]).items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    print(json.dumps({"version": spark.version}), file=answers, flush=True)
    for line in sys.stdin:
        try:
            answer = {"arrow": base64.b64encode(ask(spark, json.loads(line))).decode()}
        except Exception as error:
            answer = {"error": f"{error}"}
        print(json.dumps(answer), file=answers, flush=True)


def ask(spark: SparkSession, statement: str) -> bytes:
    """Rows of a statement as an Arrow stream."""
    frame = spark.sql(statement)
    batches = frame._collect_as_arrow()
    schema = batches[0].schema if batches else to_arrow_schema(frame.schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as stream:
        for batch in batches:
            stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


if __name__ == "__main__":
    main()
