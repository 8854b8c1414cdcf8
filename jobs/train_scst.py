"""The command of glied.commands.train_scst; --help explains it."""

from glied.commands.train_scst import main
from glied.config import run

if __name__ == "__main__":
    run(main)
