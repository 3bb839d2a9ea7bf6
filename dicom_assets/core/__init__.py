"""The fold and its parts: pure functions over Arrow tables, without clock, network, log or Dagster."""
