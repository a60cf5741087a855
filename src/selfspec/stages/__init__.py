"""The stages: thin functions that assemble parts. Each declares what it takes (`runtime.stage`)."""
