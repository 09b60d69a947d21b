"""Stage `encoder`, a module a kind of feature network."""
