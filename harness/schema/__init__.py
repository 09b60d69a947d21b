"""How a configuration is read from a file, checked against its classes, and hashed into a key."""
