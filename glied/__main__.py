"""`python -m glied COMMAND ...` is `glied COMMAND ...`."""

from glied.cli import main

if __name__ == "__main__":
    main()
