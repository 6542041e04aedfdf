from .strategy cimport strategy

cdef const strategy *find(bytes name)
