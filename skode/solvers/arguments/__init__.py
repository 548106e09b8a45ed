"""From what users pass to what the engine takes: checks, and other libraries' calling conventions."""
