"""The writer: takes generations from the queue, has a model answer them, appends every token to the log."""
