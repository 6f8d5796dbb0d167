"""Training and evaluation runs: processes, precision, optimizer, schedule, checkpoints."""
