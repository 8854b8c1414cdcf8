"""Evaluations, galleries and training reports: figures and pages for people."""
