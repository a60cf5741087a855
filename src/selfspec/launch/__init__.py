"""Running the graph of stages: `graph` decides what is left to do, executors do it."""
