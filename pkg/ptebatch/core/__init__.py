"""The compiled core; import from `ptebatch` instead."""
