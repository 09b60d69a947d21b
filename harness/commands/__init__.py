"""What the commands share: options, how a run starts and ends, given images."""
