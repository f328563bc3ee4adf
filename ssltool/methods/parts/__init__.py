"""What several methods share: queues, momentum teachers, crops, prototypes."""
