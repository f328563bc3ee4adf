"""Images, labels, data strategies, augmented views and batches."""
