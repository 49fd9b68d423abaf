"""What keeps the logs: one server (also behind Sentinel) or a cluster, behind one interface."""
