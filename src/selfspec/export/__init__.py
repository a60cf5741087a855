"""Export of a specialized model: adapter, merged weights, model card."""
