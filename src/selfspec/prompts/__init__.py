"""Prompt templates and chat templates."""
