"""The command of glied.commands.make_scenes; --help explains it."""

from glied.commands.make_scenes import main
from glied.config import run

if __name__ == "__main__":
    run(main)
