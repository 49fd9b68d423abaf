"""What a program that talks to Tokenrelay can use; imports `protocol`, nothing of the server."""
