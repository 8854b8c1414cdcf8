"""The command of glied.commands.report; --help explains it."""

from glied.commands.report import main
from glied.config import run

if __name__ == "__main__":
    run(main)
