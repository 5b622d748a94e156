"""The way into a service VM: the document both sides speak, the pinned SSH channel, and the program inside."""
