"""What is told of a run: the display while it goes, tables, the page, W&B."""
