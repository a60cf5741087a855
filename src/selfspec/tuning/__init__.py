"""Specialization (paper, section 3.2): the base model is tuned on its own examples, through LoRA.

`objectives` defines the loss, `batches` plans every step before the first, `packing` runs forward passes without
padding, `module` is the LightningModule, `strategies` distributes it over processes.
"""
