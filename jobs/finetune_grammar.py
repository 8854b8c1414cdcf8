"""The command of glied.commands.finetune_grammar; --help explains it."""

from glied.commands.finetune_grammar import main
from glied.config import run

if __name__ == "__main__":
    run(main)
