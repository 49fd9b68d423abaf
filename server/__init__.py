"""The edge: asks for generations and reads them out over SSE and WebSocket; keeps nothing another edge could not
rebuild."""
