"""From Redis to a cursor: channels, live events and pages of the log."""
