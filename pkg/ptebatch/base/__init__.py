"""What every room of the core stands on: checks of arguments, one call at a time, logs, flags."""
