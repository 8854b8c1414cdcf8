"""The command of glied.commands.select_negatives; --help explains it."""

from glied.commands.select_negatives import main
from glied.config import run

if __name__ == "__main__":
    run(main)
