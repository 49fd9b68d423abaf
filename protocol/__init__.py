"""What every process and the browser agree on; uses no network, no Redis client and no clock (except `runtime`)."""
