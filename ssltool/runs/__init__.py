"""Run folders: what a run writes, how it is resumed, and how it is read back."""
