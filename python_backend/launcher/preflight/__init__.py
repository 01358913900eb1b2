"""What must hold before a server can start: one small check a fact, each with what to do when it fails."""
