"""The command of glied.commands.extract_regions; --help explains it."""

from glied.commands.extract_regions import main
from glied.config import run

if __name__ == "__main__":
    run(main)
