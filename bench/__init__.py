"""How fast the project is, beside what people use today: see docs/benchmarks.md."""

import os

# Containers often forbid to keep compiled modules: then every process would spend its first second on compiling.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
