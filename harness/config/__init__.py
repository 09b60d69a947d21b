"""What a sweep file may say: sweep, trials, their parts, and whether these fit each other."""
