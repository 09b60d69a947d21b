"""The results of a sweep: columns, rows, protocols, events and the folder that holds them."""
