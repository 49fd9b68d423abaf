"""Other clients' dialects over the same log: a body becomes a request of ours, entries become their bytes. Pure."""
