"""How fast the project is, beside what people use today: see docs/benchmarks.md."""
