"""One reader of one log: the shared window of a stream, and a cursor into it."""
