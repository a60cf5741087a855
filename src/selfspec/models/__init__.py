"""Base models: where their weights are (`weights`), how they are loaded (`load`), toys, GGUF and NF4."""
