"""The commands: what jobs/*.py and `glied COMMAND` run. Each parses its config, builds, runs and reports."""
