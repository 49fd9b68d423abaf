"""What an edge asks of Redis; nothing else in an edge sends it a command."""
