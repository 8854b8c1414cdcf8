"""A run from its claim to its summary: driver, ledger, verification, status."""
