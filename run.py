"""`python run.py domain=finance model=gemma-3-270m`: runs an experiment or a sweep (`--help` lists the choices)."""

from pathlib import Path

from selfspec.cli.run import run_command_line

if __name__ == "__main__":
    run_command_line(Path(__file__).resolve().parent / "conf")
