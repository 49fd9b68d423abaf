"""Tools a model may call: what each is told as, and what it does. Knows no model and no stream."""
