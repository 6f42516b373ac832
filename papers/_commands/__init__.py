"""What `python -m papers` does, a module a command."""
