"""Typed payloads to bytes and back, errors as data, envelopes around payloads, and the stored records.

Import from the modules; this package imports none of them, so that a worker loads only what it uses.
"""
