"""What edges and workers share as processes: Redis connections, metrics, logs, traces and child processes.

The one part of `protocol` that is not pure. Only `server` and `workers` may import it, and it knows neither. How
processes are started (launcher, redis_server) the load test may know too.
"""
