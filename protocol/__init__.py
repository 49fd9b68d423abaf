"""What every process and the browser agree on; knows no network, no Redis client, no clock (`runtime` apart)."""
