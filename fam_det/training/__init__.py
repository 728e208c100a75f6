"""Training with exact resume, atomic checkpoints, and handling of faults and signals."""
