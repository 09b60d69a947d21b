"""Numbers in words: summary, findings, caveats, tables for papers."""
