"""Each stream's end is told to the operator's webhook, at least once, whether or not a reader is connected."""
