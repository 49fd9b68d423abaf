"""One reader of one log, by rule: the shared window of a stream, and a cursor into it."""
