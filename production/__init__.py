"""What the course does not need, and a service that is answered for does."""

LOCK_TIMEOUT = 4  # seconds: a statement waits for a lock, a request for its turn
