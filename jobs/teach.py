"""The command of glied.commands.teach; --help explains it."""

from glied.commands.teach import main
from glied.config import run

if __name__ == "__main__":
    run(main)
