"""The schema of an experiment, its validation, and how it is composed. Nothing heavy is imported."""
