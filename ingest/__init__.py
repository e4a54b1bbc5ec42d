"""Take a message, hand it over: validation, sealing, queueing, delivery to the registry."""
