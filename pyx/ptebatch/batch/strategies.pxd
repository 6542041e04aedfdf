from .seam cimport strategy

cdef const strategy *find(bytes name)
