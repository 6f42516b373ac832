"""The commands of `python -m papers`, one module per command."""
