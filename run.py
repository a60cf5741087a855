"""`python run.py domain=finance model=gemma-3-270m`: the door to every experiment (`--help` lists the choices)."""

from pathlib import Path

from selfspec.cli import main

if __name__ == "__main__":
    main(Path(__file__).resolve().parent / "conf")
