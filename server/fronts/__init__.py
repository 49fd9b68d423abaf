"""The handlers of other clients' dialects: thin, over the same use cases and the same log as our own wire."""
