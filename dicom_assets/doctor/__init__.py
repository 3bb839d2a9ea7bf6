"""Checks of everything that runs need: settings, tokens, service, lake, files, Dagster."""
