"""Everything that runs inside Triton's Python backend, and the launcher that starts Triton around it."""
