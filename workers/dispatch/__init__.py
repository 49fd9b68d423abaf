"""Which generations this process runs: claims, leases, and what is left of arq."""
