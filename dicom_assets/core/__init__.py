"""Pure functions over Arrow tables: columns, DICOM JSON, the fold and the merge; no clock, network, log or Dagster."""
