"""What numbers say in words: summary, findings, caveats, tables for papers."""
