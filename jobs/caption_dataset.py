"""The command of glied.commands.caption_dataset; --help explains it."""

from glied.commands.caption_dataset import main
from glied.config import run

if __name__ == "__main__":
    run(main)
