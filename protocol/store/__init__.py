"""The names, scripts and bytes that edges and workers share in Redis."""
