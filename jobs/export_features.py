"""The command of glied.commands.export_features; --help explains it."""

from glied.commands.export_features import main
from glied.config import run

if __name__ == "__main__":
    run(main)
