"""What edges and workers share as processes: how one speaks with Redis, counts, logs, traces and keeps children.

The one part of `protocol` that is not pure. Only `server` and `workers` may import it, and it knows neither. How
processes are started (launcher, redis_server) the load test may know too.
"""
