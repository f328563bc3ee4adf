"""The collapse monitor in the training loops of other libraries, which are imported in their own module only."""
