"""What the course does not need, and a service that is answered for does."""
