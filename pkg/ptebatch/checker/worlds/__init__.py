"""Worlds to be judged: small ones, in products and at random, and full tables."""
