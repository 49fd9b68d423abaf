"""From a cursor to a socket: SSE and WebSocket, written by rule; what to read is decided elsewhere."""
