"""Standalone training commands; each module is run as ``python -m training_scripts.<name>``."""
