"""The stages of an experiment, their keys, and the graph that unites the stages of all jobs."""
