"""What each command does: one module or package per command, of the same name, with ``run(config)``."""
