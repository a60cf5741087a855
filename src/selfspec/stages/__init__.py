"""The stages: thin functions of sections of the config and of inputs, put together from parts. See `pipeline`."""
