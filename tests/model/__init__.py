"""A model of all scripts in Python, and a machine that holds it against a real server, step after random step."""
