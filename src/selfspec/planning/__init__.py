"""What a run will take, before it starts: its rows and tokens, its memory, its hours. No torch, no weights."""
