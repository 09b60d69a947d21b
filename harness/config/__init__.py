"""The sweep file: sweep, trials, their parts, and whether these fit each other."""
