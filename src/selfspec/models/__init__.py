"""Base models: where their weights are (`weights`), whether they fit (`memory`), how they are loaded (`load`)."""
