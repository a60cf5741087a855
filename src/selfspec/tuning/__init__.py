"""Specialization (paper, section 3.2): the base model is tuned on its own examples, through LoRA.

`batches` plans every step before the first; `packing` runs them without padding; `module` is Lightning's side.
"""
