"""The protocols of a durable run over the ports: start, advance, execute, wait."""
