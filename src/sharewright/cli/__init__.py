"""The ``sharewright`` command. One module per group of subcommands; each has ``add(commands)``."""
