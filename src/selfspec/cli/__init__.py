"""The command line: `selfspec`, and the experiment command behind `run.py`."""
