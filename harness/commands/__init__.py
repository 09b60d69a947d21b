"""Parts that several commands share: options, start and end of a run, given images."""
