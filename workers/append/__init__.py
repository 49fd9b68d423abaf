"""Writing logs: what one generation has told, and one group commit for all of them."""
