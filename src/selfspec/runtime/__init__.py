"""Running a stage: the store, processes, signals, numbered batches."""
