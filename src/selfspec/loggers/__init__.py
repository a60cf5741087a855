"""Loggers: what is logged of a run, for W&B, CSV, TensorBoard, MLflow or a custom Lightning logger."""
