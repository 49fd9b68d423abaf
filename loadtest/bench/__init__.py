"""The benchmark, `tokenrelay bench`: fleets of its own, a crowd of cheap clients, a table of figures and bars."""
