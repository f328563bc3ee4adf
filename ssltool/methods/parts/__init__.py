"""Components that several methods share: queues, momentum teachers, multi-crop, prototypes, masks."""
