"""Real clusters on loopback, and what the store makes of their failures."""
