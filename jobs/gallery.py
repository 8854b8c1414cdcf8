"""The command of glied.commands.gallery; --help explains it."""

from glied.commands.gallery import main
from glied.config import run

if __name__ == "__main__":
    run(main)
