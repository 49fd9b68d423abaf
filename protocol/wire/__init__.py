"""What clients send and get: requests, cursors, SSE, WebSocket, the OpenAPI document."""
