# Checks of what Python callers give: a number or a truth value, or an error that
# names the value. The only header with Python objects; for the .pyx rooms only.
from cpython.number cimport PyNumber_Index
from libc.stdint cimport uint64_t


# a whole number from 0 to `high`
cdef inline uint64_t number(str name, object value, uint64_t high=<uint64_t>-1) except? 0xdeadbeef:
    value = index(name, value)
    if value < 0 or value > high:
        from ptebatch.errors import LayoutError
        raise LayoutError(f"{name}={value:#x} is out of range; give a number from 0 to {high:#x}")
    return value


# what has a whole value: Python's and NumPy's integers, not truth values
cdef inline object index(str name, object value):
    if type(value) is int:  # most are, and importing costs more than a call's table
        return value
    from ptebatch.errors import LayoutError
    if isinstance(value, bool):
        raise LayoutError(f"{name}={value!r} is a truth value; give a whole number")
    try:
        return PyNumber_Index(value)
    except TypeError:
        raise LayoutError(f"{name}={value!r} is not a whole number; give an int") from None


# True or False, NumPy's included; texts and counts are not truth values
cdef inline bint truth(str name, object value) except? -1:
    if value is True or value is False:
        return value is True
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    from ptebatch.errors import LayoutError
    raise LayoutError(f"{name}={value!r} is not a truth value; give True or False")
