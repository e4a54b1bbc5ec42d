"""Look, don't touch: staff find and read messages."""
