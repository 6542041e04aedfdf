"""The architecture: PTEs and their accessors, contpte blocks, the public verbs, tables, TLB."""
