"""The core under the address and undefined-behaviour sanitizers: ``python -m tests.sanitize``."""
