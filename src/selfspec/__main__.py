"""`python -m selfspec`: the console command."""

from selfspec.cli.app import main

if __name__ == "__main__":
    main()
