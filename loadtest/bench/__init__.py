"""The benchmark, `tokenrelay bench`: its own fleets, a crowd of cheap clients, a table of figures and targets."""
