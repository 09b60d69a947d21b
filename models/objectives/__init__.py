"""Training objectives of generators: what is drawn for a batch, and which loss terms come of it."""
