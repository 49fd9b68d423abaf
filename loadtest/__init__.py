"""Clients that measure: they speak the wire like anybody else and import nothing of the server but the protocol."""
