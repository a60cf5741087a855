"""The console command `selfspec`, one file a command, and the help of `run.py`."""
