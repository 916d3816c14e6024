"""What runs cost on AWS: the price book, the meter that counts what is billed, and a trial that measures a workflow."""
