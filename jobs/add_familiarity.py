"""The command of glied.commands.add_familiarity; --help explains it."""

from glied.commands.add_familiarity import main
from glied.config import run

if __name__ == "__main__":
    run(main)
