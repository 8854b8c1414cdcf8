"""The demo world: scenes that the project samples, draws and describes itself from a seed."""
