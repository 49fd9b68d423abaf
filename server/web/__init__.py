"""The chat page, the page of the interface, and their assets."""
