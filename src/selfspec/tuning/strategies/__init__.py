"""Strategies: how tuning is distributed over processes (DDP, FSDP2, DeepSpeed ZeRO)."""
