"""Seeds, questions and examples: their types, files and splits, and functions on their texts."""
