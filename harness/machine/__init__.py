"""What a stage runs on: devices, versions, its workers, random streams, measured cost."""
