"""The command of glied.commands.caption_image; --help explains it."""

from glied.commands.caption_image import main
from glied.config import run

if __name__ == "__main__":
    run(main)
