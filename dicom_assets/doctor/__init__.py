"""What the project needs around it, checked one by one: settings, tokens, service, lake, files, Dagster."""
