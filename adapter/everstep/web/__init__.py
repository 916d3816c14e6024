"""The HTTP API: one ASGI app, the same under Mangum on Lambda and under a server on one machine."""
