"""What happens before any handler: HTTP and WebSocket on the wire, and how an error looks there."""
