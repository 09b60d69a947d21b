"""The machine under a stage: devices, versions, workers, random streams and measured cost."""
