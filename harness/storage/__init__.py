"""Files that are whole or absent, one worker at a time on a stage, and what kills left."""
