"""The command of glied.commands.export; --help explains it."""

from glied.commands.export import main
from glied.config import run

if __name__ == "__main__":
    run(main)
