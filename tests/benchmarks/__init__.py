"""What the services take: `python -m tests.benchmarks.NAME` for load, freshness, overhead and rate."""
