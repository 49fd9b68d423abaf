"""Clients that measure: they use the public wire and import nothing of the server except the protocol."""
