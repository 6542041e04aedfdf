"""What Linux keeps in mm/: VMAs, address spaces, and the calls on them; import `MM` from ``ptebatch``."""
