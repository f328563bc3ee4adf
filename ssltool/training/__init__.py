"""Training: the loop, optimizers, schedules, the state, devices and processes."""
