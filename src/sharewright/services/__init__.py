"""What a request may do: validation, policy, quotas, state machines. Writes rows and enqueues operations."""
