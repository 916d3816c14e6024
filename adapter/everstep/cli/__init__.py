"""The `everstep` command. Results and data go to stdout, everything said to people to stderr."""
