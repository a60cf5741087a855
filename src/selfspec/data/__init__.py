"""Seeds, questions and examples: their types, files, splits and words."""
