"""Engines: complete prompts and score options with a loaded model."""
