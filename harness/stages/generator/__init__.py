"""Stage `generator`, a module a kind of generator."""
