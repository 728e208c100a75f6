"""Training that lasts: exact resume, whole checkpoints, answers to faults and signals."""
