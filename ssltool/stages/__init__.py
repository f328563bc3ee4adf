"""The stages: one module or package per command, with the same name and the entry point ``run(config)``."""
