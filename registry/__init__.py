"""Keep a message, encrypted: key ring, field, models, /register and /status_update."""
