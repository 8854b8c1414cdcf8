"""The command of glied.commands.prepare_cider; --help explains it."""

from glied.commands.prepare_cider import main
from glied.config import run

if __name__ == "__main__":
    run(main)
