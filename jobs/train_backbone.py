"""The command of glied.commands.train_backbone; --help explains it."""

from glied.commands.train_backbone import main
from glied.config import run

if __name__ == "__main__":
    run(main)
