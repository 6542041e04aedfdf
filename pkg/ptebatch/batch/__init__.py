"""The laboratory: the seam between walk and strategy, the strategies, and the fast way through what is regular."""
