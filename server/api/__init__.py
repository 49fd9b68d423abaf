"""The handlers of `/api` and of the probes, a file a route. They know no Redis and no socket."""
