"""What carries a long training through: exact resume, whole checkpoints, answers to faults."""
