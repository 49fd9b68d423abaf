"""The catalogue of models and what is known of each of them, as data."""
