"""The CPU engine: the loop, and the executors that compute its steps."""
