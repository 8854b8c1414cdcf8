"""The command of glied.commands.convert_weights; --help explains it."""

from glied.commands.convert_weights import main
from glied.config import run

if __name__ == "__main__":
    run(main)
