"""What a user sees of runs and sweeps: live tables, terminal tables, report pages, logged results."""
