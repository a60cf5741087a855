"""The config of an experiment: schema, composition and validation. Nothing heavy is imported."""
