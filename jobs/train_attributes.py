"""The command of glied.commands.train_attributes; --help explains it."""

from glied.commands.train_attributes import main
from glied.config import run

if __name__ == "__main__":
    run(main)
