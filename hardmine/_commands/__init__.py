"""What `python -m hardmine` does, a module a command."""
