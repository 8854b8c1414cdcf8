"""The command of glied.commands.evaluate; --help explains it."""

from glied.commands.evaluate import main
from glied.config import run

if __name__ == "__main__":
    run(main)
