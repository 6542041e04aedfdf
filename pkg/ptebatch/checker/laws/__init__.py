"""The laws of a protection change in plain Python; `rows` is their table."""
