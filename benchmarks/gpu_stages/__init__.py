"""Stages of benchmarks/gpu.py, one file each: `rows(setting)` yields figures as they are measured."""
