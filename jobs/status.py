"""The command of glied.commands.status; --help explains it."""

from glied.commands.status import main
from glied.config import run

if __name__ == "__main__":
    run(main)
