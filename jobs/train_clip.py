"""The command of glied.commands.train_clip; --help explains it."""

from glied.commands.train_clip import main
from glied.config import run

if __name__ == "__main__":
    run(main)
